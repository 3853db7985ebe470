//! What the kernel knows of a process: CPU time, memory, system calls.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// CPU time of all threads of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuTime {
    /// To the nanosecond, of the threads that live.
    pub(crate) total: Duration,
    /// What of it was spent in the kernel, in ticks.
    pub(crate) system: Duration,
}

impl CpuTime {
    /// Since the start of the process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // proc(5): "pid (comm) state …"; stime is the field 15.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has a comm")?;
        let ticks = fields.split_whitespace().nth(15 - 3);
        let ticks: u32 = ticks.context("/proc/PID/stat is short")?.parse()?;
        let mut total = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that has just ended has none.
            let Ok(schedstat) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let running = schedstat.split(' ').next().context("schedstat is empty")?;
            total += Duration::from_nanos(running.parse()?);
        }
        Ok(Self {
            total,
            system: Duration::from_secs(1) * ticks / TICKS_PER_SECOND,
        })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.total += other.total;
        self.system += other.system;
    }
}

/// `USER_HZ`: part of the kernel's ABI, the same on all architectures of today.
const TICKS_PER_SECOND: u32 = 100;

/// Memory of the process `pid` in bytes, pages shared with others counted in proportion.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kb = line.and_then(|rest| rest.split_whitespace().next());
    Ok(kb.context("smaps_rollup has Pss")?.parse::<u64>()? * 1024)
}

/// Counts the system calls of a process while it is alive.
pub(crate) struct SyscallCounter {
    tracer: Child,
    tool: Tool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Perf,
    Strace,
}

impl SyscallCounter {
    /// Attaches `perf`, or `strace` (which slows the process down) where perf is not there or not
    /// allowed; none where neither is.
    pub(crate) fn attach(pid: u32) -> Result<Option<Self>> {
        let Some(tool) = available_tool() else {
            return Ok(None);
        };
        let pid = pid.to_string();
        let mut command = match tool {
            Tool::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pid]);
                command
            }
            Tool::Strace => {
                let mut command = Command::new("strace");
                command.args(["-f", "-c", "-U", "calls,name", "-p", &pid]);
                command
            }
        };
        let tracer = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // perf says nothing when it has attached.
        thread::sleep(Duration::from_millis(300));
        Ok(Some(Self { tracer, tool }))
    }

    /// Detaches, and returns the number of calls seen.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let interrupt = format!("kill -INT {}", self.tracer.id());
        Command::new("sh").args(["-c", &interrupt]).status()?;
        let mut said = String::new();
        let mut stderr = self.tracer.stderr.take().context("stderr is a pipe")?;
        stderr.read_to_string(&mut said)?;
        self.tracer.wait()?;
        let count = said.lines().find_map(|line| match self.tool {
            Tool::Perf => line
                .contains("raw_syscalls")
                .then(|| line.split(',').next()),
            Tool::Strace => line
                .ends_with("total")
                .then(|| line.split_whitespace().next()),
        });
        match count.flatten().and_then(|count| count.parse().ok()) {
            Some(count) => Ok(count),
            None => bail!("{:?} gave no count: {said}", self.tool),
        }
    }
}

fn available_tool() -> Option<Tool> {
    let perf = Command::new("perf")
        .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"])
        .output();
    if perf.is_ok_and(|output| {
        let said = String::from_utf8(output.stderr).unwrap_or_default();
        said.starts_with(|c: char| c.is_ascii_digit())
    }) {
        return Some(Tool::Perf);
    }
    let strace = Command::new("strace").arg("-V").output();
    strace
        .is_ok_and(|output| output.status.success())
        .then_some(Tool::Strace)
}

/// The processor, its cores, the memory and the kernel of this machine.
pub(crate) fn machine() -> String {
    let line = |path: &str, key: &str| {
        let text = fs::read_to_string(Path::new("/proc").join(path)).unwrap_or_default();
        let value = text
            .lines()
            .find(|line| line.starts_with(key))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned());
        value.unwrap_or_else(|| "unknown".to_owned())
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory: u64 = line("meminfo", "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0);
    format!(
        "{}, {cores} cores, {} GiB, Linux {}",
        line("cpuinfo", "model name"),
        memory / (1024 * 1024),
        kernel.trim()
    )
}
