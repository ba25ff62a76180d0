use super::*;

fn route(method: &str, uri: &str) -> Route {
    Route::of(&method.parse().unwrap(), &uri.parse().unwrap())
}

fn scopes(method: &str, uri: &str) -> Vec<String> {
    route(method, uri).scopes(&method.parse().unwrap())
}

fn upload(repository: &str, step: UploadStep) -> Route {
    Route::Upload {
        repository: repository.into(),
        step,
    }
}

#[test]
fn every_endpoint_of_the_specification_is_recognised() {
    let repository = || "library/app".to_owned();
    let table = [
        ("GET", "/v2/", Route::Ping),
        ("GET", "/v2", Route::Ping),
        ("HEAD", "https://registry.example.com/v2/", Route::Ping),
        (
            "GET",
            "/v2/library/app/manifests/1.0",
            Route::Manifest {
                repository: repository(),
            },
        ),
        (
            "PUT",
            "/v2/library/app/manifests/sha256:ab?tag=a&tag=b",
            Route::Manifest {
                repository: repository(),
            },
        ),
        (
            "HEAD",
            "/v2/library/app/blobs/sha256:ab",
            Route::Blob {
                repository: repository(),
            },
        ),
        (
            "POST",
            "/v2/library/app/blobs/uploads/",
            upload("library/app", UploadStep::Start),
        ),
        (
            "POST",
            "/v2/library/app/blobs/uploads",
            upload("library/app", UploadStep::Start),
        ),
        (
            "POST",
            "/v2/library/app/blobs/uploads/?digest=sha256:ab",
            upload("library/app", UploadStep::Start),
        ),
        (
            "PATCH",
            "/v2/library/app/blobs/uploads/1-2?_state=x",
            upload("library/app", UploadStep::Chunk),
        ),
        (
            "PUT",
            "/v2/library/app/blobs/uploads/1-2?digest=sha256:ab",
            upload("library/app", UploadStep::Commit),
        ),
        (
            "GET",
            "/v2/library/app/blobs/uploads/1-2",
            upload("library/app", UploadStep::Status),
        ),
        (
            "DELETE",
            "/v2/library/app/blobs/uploads/1-2",
            upload("library/app", UploadStep::Cancel),
        ),
        (
            "GET",
            "/v2/library/app/tags/list?n=10&last=a",
            Route::Tags {
                repository: repository(),
            },
        ),
        (
            "GET",
            "/v2/library/app/referrers/sha256:ab?artifactType=x",
            Route::Referrers {
                repository: repository(),
            },
        ),
        ("GET", "/v2/_catalog?n=5", Route::Catalog),
        (
            "GET",
            "/v2/library/app/manifests/1.0?ns=registry.example.com",
            Route::Manifest {
                repository: repository(),
            },
        ),
    ];
    for (method, uri, expected) in table {
        assert_eq!(route(method, uri), expected, "{method} {uri}");
    }
}

#[test]
fn a_mount_names_its_source_and_asks_for_it_second() {
    let uri = "/v2/a/app/blobs/uploads/?mount=sha256%3Aab&from=b%2Fbase";
    let step = UploadStep::Mount {
        from: Some("b/base".into()),
    };
    assert_eq!(route("POST", uri), upload("a/app", step));
    assert_eq!(
        scopes("POST", uri),
        ["repository:a/app:pull,push", "repository:b/base:pull"]
    );
}

#[test]
fn a_mount_without_source_or_with_an_unreadable_one_asks_for_the_target_only() {
    for query in [
        "mount=sha256:ab",
        "mount=sha256:ab&from=",
        "mount=sha256:ab&from=b:pull,push%20x",
    ] {
        let uri = format!("/v2/a/blobs/uploads/?{query}");
        assert_eq!(
            route("POST", &uri),
            upload("a", UploadStep::Mount { from: None }),
            "{uri}"
        );
        assert_eq!(scopes("POST", &uri), ["repository:a:pull,push"], "{uri}");
    }
}

#[test]
fn from_without_mount_is_an_ordinary_upload() {
    assert_eq!(
        route("POST", "/v2/a/blobs/uploads/?from=b"),
        upload("a", UploadStep::Start)
    );
}

#[test]
fn scopes_follow_the_method_as_in_distribution() {
    for (method, uri, expected) in [
        ("GET", "/v2/a/b/manifests/x", "repository:a/b:pull"),
        ("HEAD", "/v2/a/b/blobs/sha256:ab", "repository:a/b:pull"),
        ("PUT", "/v2/a/b/manifests/x", "repository:a/b:pull,push"),
        ("POST", "/v2/a/b/blobs/uploads/", "repository:a/b:pull,push"),
        (
            "PATCH",
            "/v2/a/b/blobs/uploads/1",
            "repository:a/b:pull,push",
        ),
        (
            "DELETE",
            "/v2/a/b/manifests/sha256:ab",
            "repository:a/b:delete",
        ),
        ("GET", "/v2/a/b/tags/list", "repository:a/b:pull"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        assert_eq!(scopes(method, uri), [expected], "{method} {uri}");
    }
    assert!(scopes("GET", "/v2/").is_empty());
    assert!(scopes("GET", "/v2/_oci/ext/discover").is_empty());
}

#[test]
fn words_of_the_api_inside_a_repository_name_are_part_of_it() {
    for (uri, expected) in [
        ("/v2/a/manifests/b/manifests/x", "a/manifests/b"),
        ("/v2/a/blobs/uploads/manifests/x", "a/blobs/uploads"),
        ("/v2/tags/list/tags/list", "tags/list"),
        ("/v2/v2/manifests/x", "v2"),
    ] {
        assert_eq!(route("GET", uri).repository(), Some(expected), "{uri}");
    }
}

#[test]
fn a_host_and_port_inside_a_repository_name_stays_whole() {
    let uri = "/v2/mirror.example.com:5000/app/manifests/x";
    assert_eq!(
        scopes("GET", uri),
        ["repository:mirror.example.com:5000/app:pull"]
    );
}

#[test]
fn percent_encoding_that_every_server_reads_alike_is_decoded() {
    assert_eq!(
        scopes("GET", "/v2/%61pp/blobs/sha256%3Aab"),
        ["repository:app:pull"]
    );
}

#[test]
fn paths_that_servers_may_read_differently_are_never_authorized() {
    for uri in [
        "/v2/../secret",
        "/v2/a/../../secret/manifests/x",
        "/v2/a/%2e%2e/b/manifests/x",
        "/v2/a%2Fb/manifests/x",
        "/v2/a%252fb/manifests/x",
        "/v2/a%5cb/manifests/x",
        "/v2/a%00/manifests/x",
        "/v2/a%zz/manifests/x",
        "/v2/a%f/manifests/%",
        "/v2/./a/manifests/x",
        "/v2/%ff/manifests/x",
    ] {
        let route = route("GET", uri);
        assert!(
            matches!(route, Route::Outside | Route::Other),
            "{uri}: {route:?}"
        );
        assert!(scopes("GET", uri).is_empty(), "{uri}");
    }
    assert_eq!(
        route("GET", "/v2/a/../../secret/manifests/x"),
        Route::Outside
    );
}

#[test]
fn scope_separators_cannot_be_smuggled_into_a_name() {
    for uri in [
        "/v2/a,b/manifests/x",
        "/v2/a%20repository:b:push/manifests/x",
        "/v2/a%2Cpush/manifests/x",
        "/v2/a%0ab/manifests/x",
        "/v2/a+b/manifests/x",
    ] {
        assert!(scopes("GET", uri).is_empty(), "{uri}");
    }
}

#[test]
fn unknown_shapes_have_no_scope() {
    for (method, uri) in [
        ("GET", "/v2/manifests/x"),
        ("GET", "/v2//manifests/x"),
        ("GET", "/v2/a//b/manifests/x"),
        ("GET", "/v2/a/manifests/"),
        ("GET", "/v2/a/manifests/x/"),
        ("GET", "/v2/a/tags/list/"),
        ("GET", "/v2/a/blobs/uploads/"),
        ("POST", "/v2/a/blobs/uploads/1"),
        ("OPTIONS", "/v2/a/manifests/x"),
        ("POST", "/v2/"),
        ("GET", "/v2/_catalog/"),
    ] {
        assert_eq!(route(method, uri), Route::Other, "{method} {uri}");
        assert!(scopes(method, uri).is_empty(), "{method} {uri}");
    }
    let long = format!("/v2/{}/manifests/x", "a".repeat(MAX_REPOSITORY + 1));
    assert_eq!(route("GET", &long), Route::Other);
}

#[test]
fn what_is_not_the_registry_api_is_outside() {
    for uri in [
        "/",
        "/v1/",
        "/v2x/",
        "/api/v2.0/projects",
        "//v2/a/manifests/x",
        "/V2/",
    ] {
        assert_eq!(route("GET", uri), Route::Outside, "{uri}");
    }
    assert_eq!(
        Route::of(&Method::OPTIONS, &Uri::from_static("*")),
        Route::Outside
    );
}
