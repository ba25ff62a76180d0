//! containerd: its configuration, its network plugin's, and how it is started.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use testkit::{Sandbox, Server, TempDir, proc, run_ok};

use crate::cgroup::{NodeCgroup, SERVICE};
use crate::image::BUSYBOX;

/// The pods' network. Every node has a network namespace of its own, so all can use the same.
pub(crate) const SUBNET: &str = "10.88.0.0/24";
/// The node's address on the pods' bridge.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// What the network plugin calls its bridge on other nodes.
const BRIDGE: &str = "cni0";

/// Copies files, so it works on every file system, and needs no mount in the machine.
const SNAPSHOTTER: &str = "native";

/// How long killed processes may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// A running containerd with a runtime folder of its own. It ends when the value is dropped,
/// and everything that it started with it.
#[derive(Debug)]
pub(crate) struct Containerd {
    server: Server,
    socket: PathBuf,
}

impl Containerd {
    /// Starts it inside a sandbox and waits until its socket accepts connections.
    pub(crate) fn start(files: &TempDir, sandbox: &Sandbox, cgroup: &NodeCgroup) -> Result<Self> {
        make_bridge(sandbox)?;
        let socket = files.join("containerd.sock");
        let config = write_files(files, &socket, cgroup)?;
        let mut command = sandbox.command_in("/", "unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-euc", INIT, "init", cgroup.name(), SERVICE])
            .arg(config);
        let ready = |_| UnixStream::connect(&socket).is_ok();
        let server = Server::start(&command, &files.join("containerd.log"), ready)?;
        Ok(Self { server, socket })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes an archive with an image. The CRI side learns of it a moment later.
    pub(crate) fn import(socket: &Path, archive: &Path) -> Result<()> {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(socket).args([
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            SNAPSHOTTER,
        ]);
        ctr.arg(archive);
        run_ok(ctr).map(drop)
    }
}

impl Drop for Containerd {
    /// Kills the first process of the PID namespace, and with it all others. `unshare` then
    /// ends by itself; were it killed, nobody might want to know how its child ended.
    fn drop(&mut self) {
        let pid = self.server.pid();
        let children = proc::descendants(pid).unwrap_or_default();
        if let Some(init) = children.first() {
            // It may have ended already.
            kill(Pid::from_raw(init.cast_signed()), Signal::SIGKILL).ok();
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while proc::is_alive(pid) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

/// The first process of the node's PID namespace, which reaps what nobody waits for. Around
/// containerd there is one cgroup hierarchy, and what it writes to fixed places goes nowhere.
const INIT: &str = r#"
umount --recursive --lazy /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo 0 > "/sys/fs/cgroup$1/$2/cgroup.procs"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
containerd --config "$3" &
wait $!
"#;

/// In place of runc. The controllers of the machine may belong to the old hierarchies, so
/// containers get no limits. A slice, as the systemd driver names it, becomes the directories
/// that systemd would make of it: `a-b.slice` is in `a.slice`.
const RUNC: &str = r#"#!/bin/sh
set -eu
bundle=
previous=
for argument in "$@"; do
    [ "$previous" != --bundle ] || bundle=$argument
    previous=$argument
done
if [ -n "$bundle" ]; then
    jq --arg node '@NODE@' '
        def directories: rtrimstr(".slice") | split("-") as $parts
            | [range($parts | length) | ($parts[:. + 1] | join("-")) + ".slice"] | join("/");
        .linux.resources |= {devices: (.devices // [])}
        | .linux.cgroupsPath |= (split(":") as $p
            | if ($p | length) == 3
              then "\($node)/\($p[0] | directories)/\($p[1])-\($p[2]).scope" else . end)
    ' "$bundle/config.json" > "$bundle/config.new"
    mv "$bundle/config.new" "$bundle/config.json"
fi
exec runc "$@"
"#;

/// Writes all configuration and returns the path of containerd's.
fn write_files(files: &TempDir, socket: &Path, cgroup: &NodeCgroup) -> Result<PathBuf> {
    let runc = files.write("runc", RUNC.replace("@NODE@", cgroup.name()))?;
    fs::set_permissions(&runc, fs::Permissions::from_mode(0o700))
        .context("cannot make the wrapper of runc executable")?;
    let networks = files.join("cni");
    fs::create_dir(&networks).context("cannot make a folder for the network's configuration")?;
    files.write("cni/pods.conflist", network(&files.join("addresses")))?;
    files.write("containerd.toml", config(files, socket, &runc, &networks))
}

fn config(files: &TempDir, socket: &Path, runc: &Path, networks: &Path) -> String {
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    format!(
        r#"version = 2
root = {root}
state = {state}
# The first would write to /opt, the others have nothing to do here.
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{BUSYBOX}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = {networks}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{SNAPSHOTTER}"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = {runc}
"#,
        root = quoted(&files.join("root")),
        state = quoted(&files.join("state")),
        socket = quoted(socket),
        networks = quoted(networks),
        runc = quoted(runc),
    )
}

/// Makes the pods' bridge. The plugin would with the first pod; but servers want to listen on
/// the node's address before.
fn make_bridge(sandbox: &Sandbox) -> Result<()> {
    let address = format!("{GATEWAY}/24");
    for arguments in [
        &["link", "add", BRIDGE, "type", "bridge"][..],
        &["address", "add", &address, "dev", BRIDGE],
        &["link", "set", BRIDGE, "up"],
    ] {
        let mut ip = sandbox.command("ip");
        ip.args(arguments);
        run_ok(ip)?;
    }
    Ok(())
}

/// A bridge on which the node is the pods' way out.
fn network(addresses: &Path) -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": addresses,
                "ranges": [[{"subnet": SUBNET, "gateway": GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}
