//! Who is behind a connection: the enrolled cgroup that the calling process is in or below,
//! whatever the workload makes of its own part of the tree.

use anyhow::{Context, Result, ensure};
use proxy_common::maps::Stats;

use super::{
    probe::Probe,
    rig::{GRACE_NS, POLICY, Rig},
};

const V4: &str = "198.51.100.7";

/// Workloads at both depths at which pods live, and a process that belongs to nobody yet.
struct Tree {
    rig: Rig,
    probe: Probe,
    /// Ids of the workloads.
    guaranteed: u64,
    burstable: u64,
}

impl Tree {
    fn new(name: &str) -> Result<Self> {
        let mut rig = Rig::tree(name, &[1, 2], GRACE_NS)?;
        rig.redirect(&[V4], 0)?;
        let (guaranteed, burstable) = (rig.below("pod1")?, rig.below("burstable/pod2")?);
        let guaranteed = rig.serve(&guaranteed, POLICY)?;
        let burstable = rig.serve(&burstable, POLICY)?;
        let probe = Probe::start(&rig.sandbox, None)?;
        Ok(Self {
            rig,
            probe,
            guaranteed,
            burstable,
        })
    }

    /// Moves the process into a cgroup, which is made if it is not there.
    fn join(&mut self, cgroup: &str) -> Result<()> {
        let path = self.rig.below(cgroup)?;
        self.probe.play(&[&format!("join {}", path.display())])
    }

    /// The workload that a new connection is taken for.
    fn dials_as(&mut self) -> Result<u64> {
        let probe = &mut self.probe;
        probe.play(&[
            "socket a v4 stream",
            "connect a 198.51.100.7:80",
            "exchange a -> 198.51.100.7:80",
        ])?;
        let seen = self.rig.seen();
        ensure!(seen.len() == 1, "{seen:?}");
        Ok(seen[0].workload)
    }

    /// A new connection is nobody's: it finds no route.
    fn is_nobody(&mut self) -> Result<()> {
        let before = self.rig.stats()?;
        self.probe.play(&[
            "socket a v4 stream",
            "connect a 198.51.100.7:80 -> ENETUNREACH",
        ])?;
        ensure!(self.rig.stats()? == before);
        Ok(())
    }
}

#[test]
fn whatever_is_nested_below_a_workload_is_the_workload() -> Result<()> {
    let mut tree = Tree::new("nested-all")?;
    for nested in [
        "",
        // A container of containerd, of CRI-O, of CRI-O with crun.
        "/cri-containerd-0123456789abcdef.scope",
        "/crio-0123456789abcdef.scope",
        "/crio-0123456789abcdef.scope/container",
        // systemd inside.
        "/init.scope",
        "/system.slice",
        "/system.slice/nginx.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app.scope",
        // Docker inside, and a cluster.
        "/docker/0123456789abcdef",
        "/kubepods/burstable/pod9/0123456789abcdef",
        "/1/2/3/4/5/6/7/8",
    ] {
        for (pod, id) in [
            ("pod1", tree.guaranteed),
            ("burstable/pod2", tree.burstable),
        ] {
            let cgroup = format!("{pod}{nested}");
            tree.join(&cgroup)?;
            let found = tree.dials_as().context(cgroup)?;
            ensure!(found == id, "{found} instead of {id} in {pod}{nested}");
        }
    }
    Ok(())
}

#[test]
fn neighbours_and_parents_are_nobody() -> Result<()> {
    let mut tree = Tree::new("neighbours")?;
    for cgroup in [
        "pod3",
        "pod3/pod2",
        "pod11",
        "burstable",
        "burstable/pod1",
        "burstable/pod3/container",
        "besteffort/pod2",
        ".",
    ] {
        tree.join(cgroup)?;
        tree.is_nobody().context(cgroup)?;
    }
    let stats = tree.rig.stats()?;
    ensure!(stats == Stats::default(), "{stats}");
    Ok(())
}

/// A pod of a cluster inside a pod, at a depth at which pods of the node live.
#[test]
fn of_two_workloads_the_outer_one_counts() -> Result<()> {
    let mut tree = Tree::new("outer")?;
    let inner = tree.rig.below("pod1/pod9")?;
    tree.rig.serve(&inner, POLICY)?;
    tree.join("pod1/pod9")?;
    ensure!(tree.dials_as()? == tree.guaranteed);
    Ok(())
}

#[test]
fn a_process_that_moves_within_its_workload_stays_itself() -> Result<()> {
    let mut tree = Tree::new("moves")?;
    tree.join("pod1")?;
    tree.probe.play(&["socket old v4 stream"])?;
    tree.join("pod1/system.slice/late.service")?;
    tree.probe.play(&[
        "connect old 198.51.100.7:80",
        "peer old -> 198.51.100.7:80",
        "exchange old -> 198.51.100.7:80",
    ])?;
    let seen = tree.rig.seen();
    ensure!(
        seen.len() == 1 && seen[0].workload == tree.guaranteed,
        "{seen:?}"
    );
    ensure!(tree.dials_as()? == tree.guaranteed);
    // To another workload: what it opens from now on is that one's.
    tree.join("burstable/pod2/container")?;
    ensure!(tree.dials_as()? == tree.burstable);
    Ok(())
}

#[test]
fn a_thread_in_a_threaded_cgroup_is_the_workload() -> Result<()> {
    let mut tree = Tree::new("threaded")?;
    tree.join("pod1")?;
    let threads = tree.rig.below("pod1/threads")?;
    std::fs::write(threads.join("cgroup.type"), "threaded").context("no threaded cgroup")?;
    let steps = format!(
        "thread join-thread {}; socket a v4 stream; connect a 198.51.100.7:80 -> ok; ok; ok",
        threads.display()
    );
    tree.probe
        .play(&[&steps, "exchange a -> 198.51.100.7:80"])?;
    let seen = tree.rig.seen();
    ensure!(
        seen.len() == 1 && seen[0].workload == tree.guaranteed,
        "{seen:?}"
    );
    Ok(())
}

/// Its own tree starts at its own cgroup then; ids and depths are those of the machine.
#[test]
fn a_cgroup_namespace_changes_nothing() -> Result<()> {
    let mut tree = Tree::new("namespace")?;
    tree.join("burstable/pod2/container")?;
    tree.probe.play(&["hide-cgroups"])?;
    ensure!(tree.dials_as()? == tree.burstable);
    tree.join("burstable/pod2/container/docker/0123456789abcdef")?;
    ensure!(tree.dials_as()? == tree.burstable);
    Ok(())
}

#[test]
fn a_workload_that_is_withdrawn_is_nobody() -> Result<()> {
    let mut tree = Tree::new("withdrawn")?;
    tree.join("pod1/container")?;
    ensure!(tree.dials_as()? == tree.guaranteed);
    tree.rig.datapath.withdraw(tree.guaranteed)?;
    tree.is_nobody()?;
    let path = tree.rig.below("pod1")?;
    tree.rig.serve(&path, POLICY)?;
    ensure!(tree.dials_as()? == tree.guaranteed);
    Ok(())
}
