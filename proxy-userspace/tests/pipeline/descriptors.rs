//! A process that may open no more files: what is passed through needs none.

use std::{env, fs::File, os::fd::AsRawFd, process::Command, sync::Arc};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::pipe,
};
use postern::upstream::Pipes;

use crate::{
    passthrough::{Through, both_ways, stuff},
    rig::soon,
};

const TEST: &str = "descriptors::what_is_passed_through_is_copied_when_no_pipe_can_be_opened";
/// Tells the process in which the limit is lowered, which has no other tests.
const ALONE: &str = "POSTERN_TEST_ALONE";

#[test]
fn what_is_passed_through_is_copied_when_no_pipe_can_be_opened() {
    if env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return runtime.expect("a runtime").block_on(without_descriptors());
    }
    let alone = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", TEST, "--nocapture"])
        .env(ALONE, "yes")
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && text.contains(PASSED), "{alone:?}");
}

const PASSED: &str = "all of it was copied";

async fn without_descriptors() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let pipes = Arc::new(Pipes::default());
    let first = Through::new(&pipes).await;
    let second = Through::new(&pipes).await;

    let (least, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    // The least number that is free.
    let next = File::open("/dev/null").expect("a file").as_raw_fd();
    let next = u64::try_from(next).expect("a descriptor");
    setrlimit(Resource::RLIMIT_NOFILE, next, most).expect("a limit");
    assert_eq!(pipe().err(), Some(Errno::EMFILE));
    let Through {
        client,
        server,
        relay,
        ..
    } = first;
    both_ways(client, server, LENGTH).await;
    let passed = soon(relay).await.expect("no panic");
    assert!(passed.end.is_ok(), "{passed:?}");
    assert_eq!(passed.bytes(), 2 * LENGTH as u64);
    println!("\n{PASSED}");

    setrlimit(Resource::RLIMIT_NOFILE, least, most).expect("a limit");
    assert!(stuff(&second.client).await > 0);
    assert_eq!(pipes.lent(), 1, "a pipe when there can be one again");
}
