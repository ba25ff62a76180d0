//! What `/proc` tells about processes.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The environment that a process was started with, one `NAME=value` each.
pub fn environ(pid: u32) -> Result<Vec<String>> {
    strings(pid, "environ")
}

/// The command line of a process, one argument each.
pub fn cmdline(pid: u32) -> Result<Vec<String>> {
    strings(pid, "cmdline")
}

fn strings(pid: u32, file: &str) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/{file}");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    let parts = bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty());
    Ok(parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect())
}

/// Whether a process exists and has not ended.
pub fn is_alive(pid: u32) -> bool {
    // A zombie has ended; only its parent has not noticed.
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

/// The children of a process, their children, and so on.
pub fn descendants(pid: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry.context("cannot read /proc")?.file_name();
        // Whatever is no number is no process, and a process may have ended meanwhile.
        if let Some(child) = name.to_str().and_then(|name| name.parse().ok())
            && let Some((_, parent)) = stat(child)
        {
            children.entry(parent).or_default().push(child);
        }
    }

    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        let of_parent = children.remove(&parent).unwrap_or_default();
        found.extend(&of_parent);
        open.extend(of_parent);
    }
    Ok(found)
}

/// Resident memory of a process, KiB. Exact: the kernel adds up what `status` only estimates.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    kib.with_context(|| format!("no Rss in {path}"))?
        .parse()
        .with_context(|| format!("Rss in {path} is no number"))
}

/// What the threads of a process that have not ended have had of the processors.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for task in fs::read_dir(&path).with_context(|| format!("cannot read {path}"))? {
        let file = task?.path().join("schedstat");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let time = text.split(' ').next().unwrap_or_default();
        let time: u64 = time
            .parse()
            .with_context(|| format!("no time in {}", file.display()))?;
        nanoseconds += time;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(entries.count())
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name comes before, in parentheses, and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    Some((state, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread::sleep};

    use super::*;

    /// This one has threads of other tests, which come and go.
    #[test]
    fn measures_another_process() {
        let mut busy = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pid = busy.id();
        let before = processor_time(pid).unwrap();
        let works = (0..6_000).any(|_| {
            sleep(Duration::from_millis(10));
            processor_time(pid).unwrap() > before
        });
        let (memory, open) = (resident(pid), descriptors(pid));
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(works);
        assert!(memory.unwrap() > 100);
        assert!(open.unwrap() >= 3);
    }

    #[test]
    fn finds_a_grandchild_and_its_environment() {
        let mut shell = Command::new("sh")
            .args(["-c", "GREETING='hello world' sleep 1000 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let ours = descendants(std::process::id()).unwrap();
        assert!(ours.contains(&shell.id()));
        let sleep = descendants(shell.id()).unwrap();
        assert_eq!(sleep.len(), 1);
        assert!(ours.contains(&sleep[0]));
        assert!(is_alive(sleep[0]));

        // The shell's child becomes `sleep` a moment after it was made.
        let mut seen = Vec::new();
        for _ in 0..500 {
            seen = cmdline(sleep[0]).unwrap();
            if seen == ["sleep", "1000"] {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(seen, ["sleep", "1000"]);
        assert!(
            environ(sleep[0])
                .unwrap()
                .contains(&"GREETING=hello world".to_owned())
        );

        let pid = nix::unistd::Pid::from_raw(sleep[0].cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
        assert!(!is_alive(shell.id()));
    }
}
