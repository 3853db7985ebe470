use super::*;

fn batch(requests: impl IntoIterator<Item = Request>) -> Pipeline {
    let mut pipeline = Pipeline::default();
    for request in requests {
        pipeline.push(request, Disposition::Forward);
    }
    pipeline
}

fn bind() -> Request {
    Request::Bind
}

fn done(pipeline: &mut Pipeline, tag: BackendTag) -> bool {
    matches!(pipeline.on_message(tag), Ok(Step::Done(_)))
}

#[test]
fn replies_complete_their_requests_in_order() {
    let mut pipeline = batch([
        bind(),
        Request::DescribePortal,
        Request::Execute,
        Request::Sync,
    ]);
    assert!(done(&mut pipeline, BackendTag::BindComplete));
    assert!(done(&mut pipeline, BackendTag::RowDescription));
    assert!(!done(&mut pipeline, BackendTag::DataRow));
    assert!(done(&mut pipeline, BackendTag::CommandComplete));
    assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
    assert!(pipeline.is_quiescent());
}

#[test]
fn an_error_voids_up_to_the_next_sync_and_not_beyond() {
    let mut pipeline = batch([
        bind(),
        Request::Execute,
        Request::Sync,
        bind(),
        Request::Sync,
    ]);
    match pipeline.on_message(BackendTag::ErrorResponse) {
        Ok(Step::Void(voided)) => assert_eq!(voided.len(), 2),
        other => panic!("{other:?}"),
    }
    assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
    assert!(done(&mut pipeline, BackendTag::BindComplete));
    assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
}

#[test]
fn an_error_before_its_sync_was_sent_makes_the_server_ignore_the_rest() {
    let mut pipeline = batch([bind()]);
    assert!(matches!(
        pipeline.on_message(BackendTag::ErrorResponse),
        Ok(Step::Void(_))
    ));
    assert!(pipeline.ignores_until_sync() && !pipeline.is_quiescent());
    pipeline.push_sync(Disposition::Forward);
    assert!(!pipeline.ignores_until_sync());
    assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
}

#[test]
fn a_sync_sent_before_copy_in_was_known_is_swallowed() {
    let mut pipeline = batch([Request::Execute, Request::Sync]);
    assert!(!done(&mut pipeline, BackendTag::CopyInResponse));
    assert!(pipeline.is_copy_in());
    pipeline.push_sync(Disposition::Forward); // swallowed as well
    pipeline.end_copy_in();
    pipeline.push_sync(Disposition::Forward); // this one is answered
    assert!(done(&mut pipeline, BackendTag::CommandComplete));
    assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
    assert!(pipeline.is_quiescent());
}

#[test]
fn what_was_not_asked_for_is_a_desync() {
    assert!(batch([]).on_message(BackendTag::DataRow).is_err());
    assert!(batch([]).on_message(BackendTag::ReadyForQuery).is_err());
    assert!(
        batch([bind()])
            .on_message(BackendTag::ParseComplete)
            .is_err()
    );
    assert!(
        batch([Request::Sync])
            .on_message(BackendTag::CommandComplete)
            .is_err()
    );
    assert!(matches!(
        batch([]).on_message(BackendTag::NotificationResponse),
        Ok(Step::Unsolicited(None))
    ));
}

#[test]
fn what_the_client_awaits_leaves_out_what_we_asked() {
    let mut pipeline = Pipeline::default();
    pipeline.push(Request::Query, Disposition::Skip(OnBehalf::Settings));
    pipeline.push(Request::Query, Disposition::Forward);
    pipeline.push(bind(), Disposition::Forward);
    assert_eq!(
        pipeline.awaited(),
        Awaited {
            ready_for_query: 1,
            open_batch: true
        }
    );
}

fn sync(pipeline: &mut Pipeline) -> bool {
    pipeline.push_sync(Disposition::Forward)
}

#[test]
fn a_sync_behind_the_end_of_unannounced_copy_data_is_not_swallowed() {
    let mut pipeline = batch([Request::Execute]);
    pipeline.end_copy_in(); // CopyDone, sent before the server said that it is a COPY
    assert!(sync(&mut pipeline));
    assert!(!done(&mut pipeline, BackendTag::CopyInResponse));
    assert!(!pipeline.is_copy_in());
    assert!(done(&mut pipeline, BackendTag::CommandComplete));
    assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
    assert!(pipeline.is_quiescent());
}

#[test]
fn a_sync_in_doubt_is_settled_by_a_fence() {
    for answered in [false, true] {
        let mut pipeline = batch([Request::Execute]);
        assert!(sync(&mut pipeline));
        assert!(!done(&mut pipeline, BackendTag::CopyInResponse));
        pipeline.end_copy_in();
        assert!(sync(&mut pipeline));
        assert!(matches!(
            pipeline.on_message(BackendTag::ErrorResponse),
            Ok(Step::Void(_))
        ));
        assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
        assert!(pipeline.is_empty() && !pipeline.is_quiescent() && pipeline.wants_fence());
        pipeline.push_fence();
        if answered {
            assert!(matches!(
                pipeline.on_message(BackendTag::ReadyForQuery),
                Ok(Step::Done(Disposition::Forward))
            ));
        }
        assert!(done(&mut pipeline, BackendTag::CloseComplete));
        assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
        assert!(pipeline.is_quiescent());
    }
}

#[test]
fn what_an_earlier_batch_may_take_back_is_known_until_it_is_answered() {
    let mut pipeline = Pipeline::default();
    let taken = Revoke::Taken((*b"a").into());
    pipeline.push_expected(Expected::new(Request::Parse, Disposition::Forward).revoking(taken));
    assert!(!pipeline.may_revoke(), "it is of the batch that is open");
    sync(&mut pipeline);
    assert!(pipeline.may_revoke() && pipeline.is_status_open());
    assert!(done(&mut pipeline, BackendTag::ParseComplete));
    assert!(!pipeline.may_revoke());
    assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
    assert!(!pipeline.is_status_open());
}
