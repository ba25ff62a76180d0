//! Messages to start from: those of the corpus that the fuzzer has as well.

use std::{ffi::OsString, fs, path::PathBuf};

use crate::handmade::{AAAA, CNAME, IN, Message, OPT, QUESTION, TXT, name};

/// Asked for by every message of the corpus.
pub(crate) const HOST: &str = "registry.example.com";

/// Good answers, each with the host that was asked for.
pub(crate) fn good() -> Vec<(String, Vec<u8>)> {
    messages()
        .into_iter()
        .map(|(_, message)| (HOST.to_owned(), message.0))
        .collect()
}

fn messages() -> Vec<(&'static str, Message)> {
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let chain = Message::about(HOST);
    let first = chain.next_data();
    let chain = chain.record(&QUESTION, CNAME, IN, &name("a.example.net"));
    let second = chain.next_data();
    let chain = chain
        .record(&first, CNAME, IN, &[1, b'b', 0xc0, 21])
        .a(&second, 1)
        .record(&second, AAAA, IN, &v6);
    let mut edns = Message::about("REGISTRY.example.COM")
        .a(&QUESTION, 1)
        .record(&[0], OPT, 1232, &[]);
    edns.0[7] -= 1;
    edns.0[11] += 1;
    vec![
        ("a", Message::about(HOST).a(&QUESTION, 1).a(&QUESTION, 2)),
        (
            "aaaa",
            Message::about(HOST).record(&QUESTION, AAAA, IN, &v6),
        ),
        (
            "plain",
            Message::about(HOST)
                .record(&name(HOST), CNAME, IN, &name("cdn.example.net"))
                .a(&name("cdn.example.net"), 1)
                .record(&name(HOST), TXT, IN, b"\x04text"),
        ),
        ("chain", chain),
        ("edns", edns),
        ("cut", Message::about(HOST).a(&QUESTION, 1).with(2, 0x83)),
    ]
}

/// The files are these messages: what the fuzzer starts from is what the tests know.
#[test]
fn the_fuzzers_corpus_is_up_to_date() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/dns");
    let mut names: Vec<OsString> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|file| file.expect("a file").file_name())
        .collect();
    names.sort();
    let mut expected: Vec<_> = messages()
        .iter()
        .map(|(name, _)| OsString::from(*name))
        .collect();
    expected.sort();
    let write = std::env::var_os("UPDATE_CORPUS").is_some();
    for (name, message) in messages() {
        let file = folder.join(name);
        if write {
            fs::write(&file, &message.0).expect("a new file");
        }
        assert_eq!(fs::read(file).expect("a file"), message.0, "{name}");
    }
    assert!(write || names == expected, "{names:?}");
}
