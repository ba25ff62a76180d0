//! Many clients at once.

mod tools;

use anyhow::{Result, ensure};
use testkit::SiteAuth;

use crate::support::{self, TOKEN, World, counter, ok, stdout};

#[test]
fn sixty_four_clients_at_once_are_all_served() -> Result<()> {
    const CLIENTS: u64 = 64;
    const REQUESTS: u64 = 10;
    let (world, nginx, manifest) = support::api(SiteAuth::Bearer(TOKEN.into()))?;
    // Half of the clients over each version; every one makes several requests.
    let script = format!(
        "for n in $(seq {CLIENTS}); do version=--http$((n % 2 + 1)); [ $version = --http1 ] && version=--http1.1; \
         curl --silent --fail $version --output /dev/null --write-out '%{{http_code}}\\n' \
         'https://api.test/[1-{REQUESTS}]' & done; wait"
    );
    let output = ok(world.run_with(&manifest, &["--stats"], &["sh", "-c", &script]))?;
    let text = stdout(&output);
    let good = text.lines().filter(|line| line.ends_with("200")).count() as u64;
    ensure!(
        good == CLIENTS * REQUESTS,
        "{good} of {}",
        CLIENTS * REQUESTS
    );
    ensure!(counter(&output, "injected")? == CLIENTS * REQUESTS);
    ensure!(counter(&output, "refused")? == 0 && counter(&output, "unknown")? == 0);
    let served = nginx.requests_after(usize::try_from(CLIENTS * REQUESTS)?)?;
    ensure!(served.iter().all(|request| request.status == 200));
    Ok(())
}

#[test]
fn parallel_pushes_and_pulls() -> Result<()> {
    const CLIENTS: usize = 16;
    let world = World::new(&["registry.test"])?;
    let _registry = world.registry("registry.test", 443)?;
    let manifest = world.manifest(&support::oci("registry", "https://registry.test"))?;
    let image = world.files.join("image");
    testkit::oci::layout(&image, &[200_000])?;
    let back = world.files.join("back");
    std::fs::create_dir_all(&back)?;
    let nobody = world.files.write("auth.json", "{}")?;
    let script = format!(
        "export REGISTRY_AUTH_FILE={}; for n in $(seq {CLIENTS}); do ( \
         skopeo copy --insecure-policy --quiet oci:{}:latest docker://registry.test/team/app$n:1 && \
         skopeo copy --insecure-policy --quiet docker://registry.test/team/app$n:1 dir:{}/$n && echo good ) & done; wait",
        nobody.display(),
        image.display(),
        back.display()
    );
    let output = ok(world.run(&manifest, &["sh", "-c", &script]))?;
    let good = stdout(&output)
        .lines()
        .filter(|line| *line == "good")
        .count();
    ensure!(
        good == CLIENTS,
        "{good} of {CLIENTS}: {}",
        support::stderr(&output)
    );
    Ok(())
}
