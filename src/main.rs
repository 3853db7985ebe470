//! The command `pgweir`.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::{path::Path, rc::Rc, sync::Arc};

use pgweir::{
    app::{Pooler, serve, workers},
    config::Config,
};

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let path = std::env::args().nth(2).unwrap_or_default();
    let config = Arc::new(Config::load(Path::new(&path)).map_err(|e| anyhow::anyhow!("{e}"))?);
    let pooler = Pooler::new(config)?;
    let runtime = workers::runtime()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let threads = Rc::new(workers::Workers::start(&pooler)?);
        for listener in serve::listen(&pooler)? {
            tokio::task::spawn_local(serve::accept(
                Arc::clone(&pooler),
                Rc::clone(&threads),
                listener,
            ));
        }
        pooler.tend().await;
        Ok(())
    })
}
