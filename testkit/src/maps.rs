//! The maps of a running Postern, seen with bpftool like anybody with the right to would.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command::{describe, run_ok, stdout_of};

/// The maps that are shown; there may be more.
pub const SHOWN: [&str; 6] = [
    "WORKLOADS",
    "DESTINATIONS",
    "CREDENTIALS",
    "FLOWS",
    "CONFIG",
    "STATS",
];
/// Those that cannot be empty while a command runs.
const FILLED: [&str; 3] = ["WORKLOADS", "DESTINATIONS", "CREDENTIALS"];
/// Hundreds of counters would hide the rest.
const SHOWN_LINES: usize = 24;

/// A map and what is in it.
pub struct Map {
    /// Its number in the kernel.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Keys and values of all entries, byte by byte.
    pub contents: Vec<Vec<u8>>,
}

/// All maps that a process, or a program it loaded, uses. By process instead of by name,
/// so that another Postern on this machine does not matter. Those that a workload in use
/// fills have to have something in them.
pub fn of_process(pid: u32) -> Result<Vec<Map>> {
    let maps = of_process_even_if_empty(pid)?;
    for name in FILLED {
        let filled = maps
            .iter()
            .any(|map| map.name == name && !map.contents.is_empty());
        ensure!(filled, "the map {name} is empty while a command runs");
    }
    Ok(maps)
}

/// The same, whatever is in them.
pub fn of_process_even_if_empty(pid: u32) -> Result<Vec<Map>> {
    let mut maps = numbers_in_fdinfo(pid, "map_id")?;
    for program in numbers_in_fdinfo(pid, "prog_id")? {
        let about = bpftool(&["-j", "prog", "show", "id", &program.to_string()])?;
        maps.extend(
            about["map_ids"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64),
        );
    }
    let maps = maps.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    for name in SHOWN {
        ensure!(
            maps.iter().any(|map| map.name == name),
            "Postern has no map {name}"
        );
    }
    Ok(maps)
}

/// Prints what bpftool makes of the maps with the help of their type information.
pub fn show(maps: &[Map], names: &[&str]) -> Result<()> {
    for name in names {
        let Some(map) = maps.iter().find(|map| map.name == *name) else {
            continue;
        };
        let mut command = Command::new("bpftool");
        command.args(["map", "dump", "id", &map.id.to_string()]);
        println!("\n{name}: {}", describe(&command));
        let text = stdout_of(command)?;
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().take(SHOWN_LINES) {
            println!("{line}");
        }
        if lines.len() > SHOWN_LINES {
            println!("… {} more lines", lines.len() - SHOWN_LINES);
        }
    }
    println!();
    Ok(())
}

/// Whether the kernel has forgotten a map.
pub fn is_gone(id: u64) -> bool {
    run_ok(bpftool_command(&["map", "show", "id", &id.to_string()])).is_err()
}

/// The kernel tells for each descriptor what it refers to.
fn numbers_in_fdinfo(pid: u32, field: &str) -> Result<BTreeSet<u64>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let found = lines.filter(|(name, _)| *name == field);
        numbers.extend(found.filter_map(|(_, value)| value.trim().parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn read(id: u64) -> Result<Map> {
    let number = id.to_string();
    let about = bpftool(&["-j", "map", "show", "id", &number])?;
    let name = about["name"].as_str().unwrap_or_default().to_owned();
    let mut contents = Vec::new();
    // What hangs on a socket has no list of entries.
    if about["type"] != "sk_storage" && about["type"] != "ringbuf" {
        collect(
            &bpftool(&["-j", "map", "dump", "id", &number])?,
            &mut contents,
        );
    }
    Ok(Map { id, name, contents })
}

fn bpftool_command(arguments: &[&str]) -> Command {
    let mut command = Command::new("bpftool");
    command.args(arguments);
    command
}

fn bpftool(arguments: &[&str]) -> Result<Value> {
    let text = stdout_of(bpftool_command(arguments))?;
    let value: Value = serde_json::from_str(&text).context("bpftool wrote no JSON")?;
    if let Some(error) = value.get("error") {
        bail!("bpftool {}: {error}", arguments.join(" "));
    }
    Ok(value)
}

/// bpftool writes a key or a value as a list of bytes like "0x2a", at several depths.
fn collect(value: &Value, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::Array(items) => match items.iter().map(byte).collect::<Option<Vec<u8>>>() {
            Some(bytes) if !bytes.is_empty() => found.push(bytes),
            _ => items.iter().for_each(|item| collect(item, found)),
        },
        Value::Object(fields) => fields.values().for_each(|field| collect(field, found)),
        _ => {}
    }
}

fn byte(value: &Value) -> Option<u8> {
    u8::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_at_every_depth() {
        let dump = r#"[{"key":["0x01","0x00"],"value":["0x68","0x69"],"formatted":{"key":1}},
                       {"key":["0x02"],"values":[{"cpu":0,"value":["0xff"]}]}]"#;
        let mut found = Vec::new();
        collect(&serde_json::from_str(dump).unwrap(), &mut found);
        assert_eq!(found, [vec![1, 0], b"hi".to_vec(), vec![2], vec![255]]);
    }
}
