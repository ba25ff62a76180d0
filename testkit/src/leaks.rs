//! Looks for secrets where they must not be: in maps, in the environment and on the
//! command line of whatever runs under Postern.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::maps::Map;
use crate::proc;
use anyhow::{Result, bail, ensure};

/// The name of a secret's form, and the form.
pub type Needle = (String, String);

/// No map holds any form of a secret. `known` is something that is in a map, so that a
/// search that finds nothing means something.
pub fn check_maps(maps: &[Map], needles: &[Needle], known: &[u8]) -> Result<String> {
    let holds = |map: &Map, bytes: &[u8]| map.contents.iter().any(|entry| contains(entry, bytes));
    ensure!(
        maps.iter().any(|map| holds(map, known)),
        "the search is broken: it does not find what is in a map"
    );
    for map in maps {
        for (what, needle) in needles {
            ensure!(
                !holds(map, needle.as_bytes()),
                "{what} is in the map {}",
                map.name
            );
        }
    }
    let entries: usize = maps.iter().map(|map| map.contents.len()).sum();
    Ok(format!(
        "none in {} maps ({entries} keys and values)",
        maps.len()
    ))
}

/// Neither Postern nor anything that it started shows a secret in its environment or on
/// its command line. `command` is the name of a program that has to be among them.
pub fn check_processes(postern: u32, needles: &[Needle], command: &str) -> Result<String> {
    let descendants = descendants_with(postern, command)?;
    let mut checked = 0;
    for pid in descendants.into_iter().chain([postern]) {
        for (place, words) in [
            ("environment", proc::environ(pid)),
            ("command line", proc::cmdline(pid)),
        ] {
            // Short-lived processes may be gone.
            let Ok(words) = words else { continue };
            checked += words.len();
            for (what, needle) in needles {
                ensure!(
                    !words.iter().any(|word| word.contains(needle)),
                    "{what} is in the {place} of process {pid}"
                );
            }
        }
    }
    ensure!(checked > 0, "no process could be looked at");
    Ok(format!("none in {checked} variables and arguments"))
}

/// All descendants, once a program is among them: it may just be about to start.
fn descendants_with(postern: u32, command: &str) -> Result<Vec<u32>> {
    let is_command = |pid: &u32| {
        let words = proc::cmdline(*pid).unwrap_or_default();
        words
            .first()
            .is_some_and(|program| Path::new(program).ends_with(command))
    };
    for _ in 0..500 {
        let descendants = proc::descendants(postern)?;
        if descendants.iter().any(is_command) {
            return Ok(descendants);
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("`{command}` is not among the children of process {postern}")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(contents: &[&[u8]]) -> Map {
        let contents = contents.iter().map(|entry| entry.to_vec()).collect();
        Map {
            id: 1,
            name: "CREDENTIALS".to_owned(),
            contents,
        }
    }

    #[test]
    fn a_secret_in_a_map_is_found() {
        let needles = [("the secret".to_owned(), "s3cret".to_owned())];
        let clean = [map(&[b"\x01\x02", b"known"])];
        assert!(check_maps(&clean, &needles, b"know").is_ok());
        assert!(check_maps(&clean, &needles, b"missing").is_err());
        let leaking = [map(&[b"known", b"\0\0s3cret\0"])];
        let error = check_maps(&leaking, &needles, b"known")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "the secret is in the map CREDENTIALS");
    }

    #[test]
    fn a_secret_in_the_environment_is_found() {
        let mut sleep = std::process::Command::new("sleep");
        let mut sleep = sleep.arg("1000").env("TOKEN", "xs3cretx").spawn().unwrap();
        let check = |needle: &str| {
            let needles = [("the secret".to_owned(), needle.to_owned())];
            check_processes(std::process::id(), &needles, "sleep").map_err(|e| e.to_string())
        };
        let (clean, leaking) = (check("occurs nowhere"), check("s3cret"));
        let expected = format!("the secret is in the environment of process {}", sleep.id());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert_eq!(leaking.unwrap_err(), expected);
        clean.unwrap();
    }
}
