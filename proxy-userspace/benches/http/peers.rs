//! What the other proxies are told: to add a header, on one thread, with connections kept on
//! both sides.

use testkit::{Certificate, TempDir};

use crate::{upstream::TOKEN, world::HOST};

/// Where a proxy listens: without TLS, and with it.
pub(crate) type Ports = (u16, u16);

pub(crate) struct Files<'a> {
    pub(crate) folder: &'a TempDir,
    pub(crate) address: &'a str,
    pub(crate) certificate: &'a Certificate,
    pub(crate) ca: &'a str,
}

pub(crate) fn nginx(files: &Files<'_>, (plain, tls): Ports) -> String {
    let Files {
        folder,
        address,
        certificate,
        ca,
    } = files;
    let folder = folder.path().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {folder}/nginx.pid;\n\
         error_log {folder}/nginx.errors;\nworker_rlimit_nofile 16384;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n{temporary}access_log off;\nkeepalive_requests 100000000;\n\
         upstream plain {{ server {address}:80; keepalive 1024; keepalive_requests 100000000; }}\n\
         upstream tls {{ server {address}:443; keepalive 1024; keepalive_requests 100000000; }}\n\
         proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
         proxy_set_header Host {HOST};\n\
         proxy_set_header Authorization \"Bearer {TOKEN}\";\n\
         server {{ listen {address}:{plain} backlog=4096;\n\
         location / {{ proxy_pass http://plain; }} }}\n\
         server {{ listen {address}:{tls} ssl backlog=4096;\n\
         ssl_certificate {cert};\nssl_certificate_key {key};\n\
         ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:all:10m;\n\
         proxy_ssl_protocols TLSv1.2 TLSv1.3;\nproxy_ssl_server_name on;\n\
         proxy_ssl_name {HOST};\nproxy_ssl_verify on;\n\
         proxy_ssl_trusted_certificate {ca};\n\
         location / {{ proxy_pass https://tls; }} }}\n}}\n",
        cert = certificate.cert.display(),
        key = certificate.key.display(),
    )
}

/// `pem` holds certificate and key.
pub(crate) fn haproxy(files: &Files<'_>, pem: &str, (plain, tls): Ports) -> String {
    let Files { address, ca, .. } = files;
    let front = |name: &str, bind: String| {
        format!(
            "frontend {name}\nbind {address}:{bind}\n\
             http-request set-header Authorization \"Bearer {TOKEN}\"\ndefault_backend {name}\n"
        )
    };
    format!(
        "global\nnbthread 1\nmaxconn 8000\ndefaults\nmode http\nhttp-reuse always\n\
         timeout connect 5s\ntimeout client 60s\ntimeout server 60s\n{}{}\
         backend plain\nserver one {address}:80\n\
         backend tls\nserver one {address}:443 ssl verify required ca-file {ca} \
         sni str({HOST}) verifyhost {HOST}\n",
        front("plain", format!("{plain} backlog 4096")),
        front("tls", format!("{tls} backlog 4096 ssl crt {pem}")),
    )
}

pub(crate) fn envoy(files: &Files<'_>, (plain, tls): Ports) -> String {
    const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    let Files {
        address,
        certificate,
        ca,
        ..
    } = files;
    let listener = |name: &str, port: u16, socket: String| {
        format!(
            r#"  - name: {name}
    address: {{ socket_address: {{ address: {address}, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add:
              - header: {{ key: Authorization, value: "Bearer {TOKEN}" }}
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: {name} }}
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
{socket}"#
        )
    };
    let cluster = |name: &str, port: u16, socket: String| {
        format!(
            r"  - name: {name}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{ max_connections: 4096, max_pending_requests: 4096, max_requests: 4096 }}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {address}, port_value: {port} }} }} }}
{socket}"
        )
    };
    let inside = format!(
        r#"      transport_socket:
        name: tls
        typed_config:
          "@type": {TLS}.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{ filename: "{}" }}
              private_key: {{ filename: "{}" }}
"#,
        certificate.cert.display(),
        certificate.key.display()
    );
    let outside = format!(
        r#"    transport_socket:
      name: tls
      typed_config:
        "@type": {TLS}.UpstreamTlsContext
        sni: {HOST}
        common_tls_context:
          tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
          validation_context:
            trusted_ca: {{ filename: "{ca}" }}
            match_typed_subject_alt_names:
            - {{ san_type: DNS, matcher: {{ exact: {HOST} }} }}
"#
    );
    [
        "static_resources:\n  listeners:\n".to_owned(),
        listener("plain", plain, String::new()),
        listener("tls", tls, inside),
        "  clusters:\n".to_owned(),
        cluster("plain", 80, String::new()),
        cluster("tls", 443, outside),
    ]
    .concat()
}
