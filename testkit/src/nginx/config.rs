//! The configuration file.

use std::fmt::Write;

use anyhow::{Context, Result, bail};

use super::{Content, GIT_PROCESSES, Site, SiteAuth, git_socket, log};
use crate::{TempDir, git, htpasswd};

/// The whole file.
pub(super) fn text(files: &TempDir, sites: &[Site]) -> Result<String> {
    let mut text = String::new();
    // One process in the foreground: stopping it leaves nobody behind.
    writeln!(
        text,
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;"
    )?;
    writeln!(
        text,
        "error_log errors info;\nevents {{ worker_connections 16384; }}\nhttp {{"
    )?;
    writeln!(
        text,
        "log_format seen \"{}\";",
        log::FORMAT.replace('|', "\\t")
    )?;
    writeln!(
        text,
        "access_log access seen;\nclient_max_body_size 0;\nsendfile on;"
    )?;
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Not every build of nginx has all of them; Debian's light one does.
        writeln!(text, "{kind}_temp_path {};", files.join(kind).display())?;
    }
    if sites
        .iter()
        .any(|site| matches!(site.content, Content::Git(_)))
    {
        writeln!(text, "upstream git {{")?;
        for number in 0..GIT_PROCESSES {
            writeln!(text, "server unix:{};", git_socket(files, number).display())?;
        }
        writeln!(text, "}}")?;
    }
    for (number, site) in sites.iter().enumerate() {
        write_site(&mut text, files, number, site)
            .with_context(|| format!("the site {}", site.name))?;
    }
    text.push_str("}\n");
    Ok(text)
}

fn write_site(text: &mut String, files: &TempDir, number: usize, site: &Site) -> Result<()> {
    let tls = if site.tls.is_some() { " ssl http2" } else { "" };
    writeln!(
        text,
        "server {{\nlisten {}{tls};\nserver_name {};",
        site.address, site.name
    )?;
    if let Some(certificate) = &site.tls {
        writeln!(text, "ssl_certificate {};", certificate.cert.display())?;
        writeln!(text, "ssl_certificate_key {};", certificate.key.display())?;
    }
    if let SiteAuth::Certificate(authority) = &site.auth {
        writeln!(
            text,
            "ssl_verify_client on;\nssl_client_certificate {};\n\
             add_header Client-Subject $ssl_client_s_dn always;",
            authority.display()
        )?;
    }
    // What has no type otherwise: the texts that this file writes.
    writeln!(text, "default_type application/json;\nlocation / {{")?;
    match &site.auth {
        SiteAuth::None | SiteAuth::Certificate(_) => {}
        SiteAuth::Basic { user, password } => {
            let name = format!("users-{number}");
            let users = files.write(name, htpasswd(user, password)?)?;
            writeln!(
                text,
                "auth_basic \"site\";\nauth_basic_user_file {};",
                users.display()
            )?;
        }
        SiteAuth::Bearer(token) => {
            writeln!(
                text,
                "if ($http_authorization != {}) {{",
                quoted(&format!("Bearer {token}"))?
            )?;
            writeln!(
                text,
                "add_header WWW-Authenticate 'Bearer realm=\"site\"' always;"
            )?;
            writeln!(text, "return 401 '{{\"error\":\"no valid token\"}}';\n}}")?;
        }
    }
    write_content(text, &site.content)?;
    text.push_str("}\n}\n");
    Ok(())
}

fn write_content(text: &mut String, content: &Content) -> Result<()> {
    match content {
        Content::Git(root) => {
            let parameters = [
                (
                    "SCRIPT_FILENAME",
                    git::http_backend()?.display().to_string(),
                ),
                ("GIT_PROJECT_ROOT", root.display().to_string()),
                ("GIT_HTTP_EXPORT_ALL", "1".to_owned()),
                ("PATH_INFO", "$uri".to_owned()),
                ("QUERY_STRING", "$args".to_owned()),
                ("REQUEST_METHOD", "$request_method".to_owned()),
                ("CONTENT_TYPE", "$content_type".to_owned()),
                ("CONTENT_LENGTH", "$content_length".to_owned()),
                ("REMOTE_ADDR", "$remote_addr".to_owned()),
            ];
            for (name, value) in parameters {
                writeln!(text, "fastcgi_param {name} {value};")?;
            }
            // Git allows a push when it knows a user.
            writeln!(text, "fastcgi_param REMOTE_USER $remote_user if_not_empty;")?;
            writeln!(text, "fastcgi_pass git;")?;
        }
        Content::Json(body) => {
            writeln!(text, "return 200 {};", quoted(body)?)?;
        }
        Content::Files(root) => writeln!(text, "root {};", root.display())?,
        Content::Proxy(address) => {
            writeln!(
                text,
                "proxy_pass http://{address};\nproxy_http_version 1.1;"
            )?;
            writeln!(text, "proxy_set_header Host $http_host;")?;
            writeln!(text, "proxy_set_header X-Forwarded-Proto $scheme;")?;
            writeln!(text, "proxy_request_buffering off;\nproxy_buffering off;")?;
        }
        Content::Redirect(to) => writeln!(text, "return 307 \"{to}$request_uri\";")?,
    }
    Ok(())
}

/// A literal string of nginx's configuration; it has no way to write a dollar sign.
fn quoted(value: &str) -> Result<String> {
    if value.contains(['$', '\n', '\r']) {
        bail!("nginx cannot be given a dollar sign or a line break: {value:?}");
    }
    Ok(format!(
        "\"{}\"",
        value.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_configuration_cannot_say() {
        assert_eq!(quoted(r#"a "b" \c"#).unwrap(), r#""a \"b\" \\c""#);
        assert!(quoted("$host").is_err());
    }
}
