//! Starts processes that die with this one.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::command::describe;

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a command that the kernel kills when this process ends, however it ends.
///
/// The kernel means the *thread* that started it, and test runners end a thread with each
/// test. So one thread that lives as long as the process starts everything.
pub fn spawn(command: &Command, adjust: impl FnOnce(&mut Command)) -> Result<Child> {
    static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| Mutex::new(start_thread()));

    let mut guarded = tied_to_parent(command);
    adjust(&mut guarded);
    let (reply, answer) = mpsc::channel();
    let spawner = SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    spawner
        .send((guarded, reply))
        .map_err(|_| anyhow!("the spawning thread is gone"))?;
    answer
        .recv()
        .context("the spawning thread is gone")?
        .with_context(|| format!("cannot start {}", describe(command)))
}

fn start_thread() -> Sender<Order> {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, reply) in orders {
            // Whoever asked may have given up; the child is then reaped by its drop.
            reply.send(command.spawn()).ok();
        }
    });
    sender
}

/// `setpriv` sets the parent-death signal and becomes the program, so the process id is
/// the program's.
fn tied_to_parent(command: &Command) -> Command {
    let mut guarded = Command::new("setpriv");
    guarded
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        guarded.current_dir(folder);
    }
    guarded
}
