//! The kernel tests on other kernels than the running one: each boots in an emulated machine
//! that consists of the kernel, what the tests need, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

mod cpio;
mod emulator;
mod fetch;
mod image;
mod machine;
mod modules;
mod programs;
mod report;
mod suite;

/// Which kernels to test.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Choice {
    #[value(name = "5.10")]
    V5_10,
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    #[value(name = "7.2")]
    V7_2,
    /// Two at a time
    All,
}

/// A kernel of Debian.
struct Kernel {
    /// Its first two numbers.
    version: &'static str,
    /// The release of Debian that has it.
    suite: &'static str,
    /// What the names of its packages start with: first that of the image.
    packages: &'static [&'static str],
}

const V5_10: Kernel = Kernel {
    version: "5.10",
    suite: "bullseye",
    packages: &["linux-image"],
};
const V6_1: Kernel = Kernel {
    version: "6.1",
    suite: "bookworm",
    packages: &["linux-image"],
};
const V6_12: Kernel = Kernel {
    version: "6.12",
    suite: "bookworm-security",
    packages: &["linux-image"],
};
const V7_2: Kernel = Kernel {
    version: "7.2",
    suite: "sid",
    packages: &["linux-binary", "linux-modules"],
};

impl Choice {
    fn kernels(self) -> &'static [Kernel] {
        match self {
            Self::V5_10 => &[V5_10],
            Self::V6_1 => &[V6_1],
            Self::V6_12 => &[V6_12],
            Self::V7_2 => &[V7_2],
            Self::All => &[V5_10, V6_1, V6_12, V7_2],
        }
    }
}

/// Machines that run at the same time. Most of what a test does is to wait.
const AT_ONCE: usize = 2;

/// Runs the kernel tests whose names contain one of `filters`, or all of them.
pub(crate) fn perform(workspace: &Workspace, choice: Choice, filters: &[String]) -> Result<()> {
    let folder = workspace.target.join("kernels");
    let kernels = choice.kernels();
    let fetched = fetch::all(&folder, kernels)?;
    let emulator = emulator::find(&folder)?;
    let tests = suite::build(workspace, filters)?;
    let base = image::Base::new(&tests)?;

    println!(
        "kernels: {} tests of {} on each",
        tests.names.len(),
        tests.program.display()
    );
    let machines: Vec<_> = kernels.iter().zip(&fetched).collect();
    let next = Mutex::new(machines.iter());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(machines.len()) {
            scope.spawn(|| {
                loop {
                    let one = next.lock().ok().and_then(|mut next| next.next());
                    let Some((kernel, fetched)) = one else { return };
                    let tested = test(&folder, kernel, fetched, &emulator, &base, &tests);
                    if let Err(error) = tested {
                        eprintln!("kernel {}: {error:#}", kernel.version);
                        failed.lock().expect("no panic").push(kernel.version);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    if !failed.is_empty() {
        bail!("the tests fail on {}", failed.join(", "));
    }
    println!("kernels: ok");
    Ok(())
}

/// Boots one kernel and tells how the tests went.
fn test(
    folder: &Path,
    kernel: &Kernel,
    fetched: &fetch::Fetched,
    emulator: &emulator::Emulator,
    base: &image::Base,
    tests: &suite::Suite,
) -> Result<()> {
    let files = Files::new(folder, kernel.version)?;
    let token = image::token()?;
    image::write(&files.image, base, fetched, tests, &token)?;
    let machine = machine::Machine {
        emulator,
        kernel: &fetched.kernel,
        files: &files,
    };
    let ended = machine.run()?;
    let outcome = report::Outcome::of(&ended.results, &token, &tests.names);
    println!(
        "kernel {}: {} passed, {} failed, {} s",
        outcome.release.as_deref().unwrap_or(kernel.version),
        outcome.passed,
        tests.names.len() - outcome.passed,
        ended.seconds,
    );
    if outcome.is_success() {
        return Ok(());
    }
    eprintln!("{}", outcome.output);
    if let Some(why) = outcome.incomplete(ended.in_time) {
        eprintln!("its console:\n{}", ended.console);
        bail!("{why}");
    }
    bail!("{} failed", outcome.failed.join(", "))
}

/// What one machine reads and writes.
struct Files {
    /// The archive that is its file system; the largest, so it goes with the value.
    image: PathBuf,
    /// What the kernel and the first process write.
    console: PathBuf,
    /// What the tests write.
    results: PathBuf,
}

impl Files {
    fn new(folder: &Path, version: &str) -> Result<Self> {
        let folder = folder.join("machines");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = |kind: &str| folder.join(format!("{version}.{kind}"));
        Ok(Self {
            image: file("cpio"),
            console: file("console"),
            results: file("results"),
        })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        fs::remove_file(&self.image).ok();
    }
}
