//! Images of this machine's programs.

use std::net::SocketAddr;

use mininode::{CLIENT, CgroupLayout, Image, Options};
use serde_json::json;
use testkit::{Pki, Registry, RegistryAuth, RegistryOptions, SandboxOptions, TempDir};

use crate::support::{World, idle};

#[tokio::test]
async fn clients_run_in_a_pod() {
    let world = World::new(CgroupLayout::Cgroupfs).await;
    world.node.import(Image::client().unwrap()).await.unwrap();
    let mut spec = idle();
    spec["containers"][0]["image"] = json!(CLIENT);
    world.create("one", &spec);
    world.reach("one", "Running").await;
    for (script, expected) in [
        ("skopeo --version", "skopeo version"),
        ("curl --version", "curl "),
        ("git --version", "git version"),
        ("git remote-https 2>&1 || true", "usage"),
        ("cat /etc/containers/policy.json", "insecureAcceptAnything"),
        (
            "head -1 /etc/ssl/certs/ca-certificates.crt",
            "BEGIN CERTIFICATE",
        ),
        ("touch /tmp/x /var/tmp/x && echo ok", "ok"),
    ] {
        let output = world.sh("one", script).await;
        assert!(output.contains(expected), "{script}: {output}");
    }
    // Not just their first lines: git finds itself, curl speaks HTTP.
    let init = "git init --quiet /tmp/a && git -C /tmp/a status --short";
    assert_eq!(world.sh("one", init).await, "");
    let port = world.server.address().port();
    let refused = format!("curl --silent http://127.0.0.1:{port}/version || echo $?");
    // The API server listens on the node's loopback, and a pod has one of its own.
    assert_eq!(world.sh("one", &refused).await, "7");
}

#[tokio::test]
async fn an_image_has_the_files_that_it_is_given() {
    let world = World::new(CgroupLayout::Cgroupfs).await;
    let image = Image::from_programs("given", &["sleep"])
        .unwrap()
        .with_file("/srv/greeting", "hello\n")
        .unwrap()
        .with_file("/bin/true", "#!/bin/sh\nexit 7\n")
        .unwrap();
    let mut spec = idle();
    spec["containers"][0]["image"] = json!(image.reference());
    world.node.import(image).await.unwrap();
    world.create("one", &spec);
    world.reach("one", "Running").await;
    assert_eq!(world.sh("one", "cat /srv/greeting").await, "hello");
    // It replaces the applet in the image, and nothing on this machine.
    assert_eq!(world.sh("one", "cat /bin/true").await, "#!/bin/sh\nexit 7");
    assert!(
        std::process::Command::new("true")
            .status()
            .unwrap()
            .success()
    );
    // The machine's own, with its libraries, in the applet's place; the shell would take its own.
    let output = world.exec("one", &["sleep", "--version"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("coreutils"), "{text}");
}

#[tokio::test]
async fn a_pod_pulls_from_a_registry_on_the_node() {
    let address: SocketAddr = "192.0.2.10:443".parse().unwrap();
    let world = World::with(Options {
        network: SandboxOptions::default().host("registry.test", address.ip()),
        ..Options::default()
    })
    .await;
    world.node.import(Image::client().unwrap()).await.unwrap();
    let pki = Pki::new().unwrap();
    let registry = Registry::start(
        Some(world.node.sandbox()),
        &RegistryOptions {
            address: Some(address),
            tls: Some(pki.server(&["registry.test"]).unwrap()),
            auth: RegistryAuth::None,
        },
    )
    .unwrap();
    let files = TempDir::new("pull").unwrap();
    testkit::oci::layout(&files.join("image"), &[1000]).unwrap();
    let mut push = world.node.command("skopeo");
    push.args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:latest", files.join("image").display()))
        .arg("docker://registry.test/app:v1");
    testkit::run_ok(push).unwrap();

    let ca = json!({"metadata": {"name": "ca"}, "data": {"ca.crt": pki.ca_pem().unwrap()}});
    world
        .api()
        .create("v1", "configmaps", "default", ca)
        .unwrap();
    let mut spec = idle();
    spec["hostAliases"] = json!([{"ip": "192.0.2.10", "hostnames": ["registry.test"]}]);
    spec["volumes"] = json!([{"name": "ca", "configMap": {"name": "ca"}}]);
    let main = &mut spec["containers"][0];
    main["image"] = json!(CLIENT);
    main["volumeMounts"] = json!([{"name": "ca", "mountPath": "/ca"}]);
    main["env"] = json!([{"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"}]);
    world.create("one", &spec);
    world.reach("one", "Running").await;
    let pull = "skopeo copy --quiet docker://registry.test/app:v1 oci:/tmp/app:v1 && ls /tmp/app";
    let listing = world.sh("one", pull).await;
    assert!(listing.contains("index.json"), "{listing}");
    drop(registry);
}
