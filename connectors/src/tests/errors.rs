//! Manifests with faults: each is named with its file, document, field and the fix.

use super::*;

/// The one fault of a Connector's `spec`, beside a sound Secret, without the place.
fn fault_of(spec: &str) -> String {
    fault(&(connector("c", spec) + &login()))
}

/// The one fault of a file, without `a.yaml, document N, `.
fn fault(text: &str) -> String {
    let faults = faults(text);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    let (_, fault) = faults[0].split_once(", document ").expect("a document");
    fault
        .split_once([',', ':'])
        .expect("a field")
        .1
        .trim_start()
        .to_owned()
}

#[test]
fn faults_name_file_document_object_field_and_fix() {
    let mut text = login();
    text += &connector(
        "a",
        "{connectorClassName: generic-basic, adress: https://api.example.com}",
    );
    text += &connector(
        "b",
        "{connectorClassName: gti, address: https://git.example.com}",
    );
    text += &connector(
        "c",
        "{connectorClassName: oci, address: registry.example.com}",
    );
    text += &connector("d", SOUND);
    text += &connector("e", SOUND);
    assert_eq!(
        faults(&text),
        [
            "a.yaml, document 2, Connector default/a, spec: unknown field `adress`: leave it out, or \
         correct it to one of connectorClassName, address, addressExtensions, auth, \
         caCertSecretRef, params, interception",
            "a.yaml, document 3, Connector default/b, spec.connectorClassName: there is no \
         ConnectorClass `gti`: add it to the files, or use one of generic-basic, generic-bearer, \
         git, harbor, maven, npm, oci, pypi",
            "a.yaml, document 4, Connector default/c, spec.address: has no scheme: write \
         https://registry.example.com",
            "a.yaml, document 6, Connector default/e, spec.address: leads to the same host, port and \
         path as Connector default/d (a.yaml, document 5): one address can have one Connector only",
        ]
    );
}

#[test]
fn the_envelope_must_be_right() {
    for (text, expected) in [
        (
            "- a\n- b\n",
            "must be a Kubernetes object, that is a mapping with apiVersion, kind and metadata",
        ),
        (
            "just text\n",
            "must be a Kubernetes object, that is a mapping with apiVersion, kind and metadata",
        ),
        ("apiVersion: v1\n", "kind: is missing: add it"),
        ("kind: Secret\n", "apiVersion: is missing: add it"),
        ("apiVersion: v1\nkind: List\n", "items: is missing: add it"),
        (
            "apiVersion: connectors.alauda.io/v1alpha1\nkind: Connector\nmetadata: {name: a}\n",
            "apiVersion: `connectors.alauda.io/v1alpha1` is not read: change it to \
             connectors.postern.dev/v1alpha1; the other fields stay as they are",
        ),
        (
            "apiVersion: connectors.postern.dev/v1\nkind: ConnectorClass\nmetadata: {name: a}\n",
            "apiVersion: `connectors.postern.dev/v1` is not read: change it to \
             connectors.postern.dev/v1alpha1; the other fields stay as they are",
        ),
        (
            "apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\nspec: {}\n",
            "metadata.name: is missing: add it",
        ),
        (
            "apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\nmetadata: {name: a}\n",
            "Connector default/a, spec: is missing: add it",
        ),
        (
            "apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\nmetadata: {name: A_b}\nspec: {}\n",
            "metadata.name: must be lower-case letters, digits, `-` and `.`, with a letter or \
             digit at both ends",
        ),
        (
            "apiVersion: connectors.postern.dev/v1alpha1\nkind: Connector\nmetadata: {name: a, namspace: b}\nspec: {}\n",
            "Connector default/a, metadata: unknown field `namspace`: leave it out, or correct it \
             to one of name, generateName, namespace, labels, annotations, uid, resourceVersion, \
             generation, creationTimestamp, deletionTimestamp, deletionGracePeriodSeconds, \
             finalizers, ownerReferences, managedFields, selfLink",
        ),
        (
            "a: [\n",
            "line 1, column 4: this is not valid YAML: check the indentation, quotes and colons \
             here and just before",
        ),
        (
            "apiVersion: v1\nkind: Secret\nkind: Secret\n",
            "line 3, column 1: `kind` is given twice in one mapping: keep one of them",
        ),
    ] {
        assert_eq!(fault(text), expected, "{text}");
    }
}

#[test]
fn a_path_leads_into_lists() {
    let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap}
- apiVersion: connectors.postern.dev/v1alpha1
  kind: ConnectorClass
  metadata: {name: a}
  spec: {auth: {types: [{name: x}, {name: z, optional: 'yes'}]}}
";
    assert_eq!(
        fault(text),
        "ConnectorClass a, items[1].spec.auth.types[1].optional: must be true or false, not a string"
    );
}

#[test]
fn a_file_without_a_connector_is_a_mistake() {
    for text in ["", "# nothing\n---\n", &login()] {
        assert_eq!(faults(text), ["a.yaml: has no Connector in it: add one"]);
    }
}

#[test]
fn a_connector_must_follow_the_rules() {
    for (spec, expected) in [
        (
            "{address: https://a.example.com}",
            "spec.connectorClassName: is missing: use one of generic-basic, generic-bearer, git, harbor, maven, npm, oci, pypi",
        ),
        (
            "{connectorClassName: oci}",
            "spec.address: is missing: write one such as https://registry.example.com",
        ),
        (
            "{connectorClassName: oci, address: 5}",
            "spec.address: must be a string, not a number: put it in quotes",
        ),
        (
            "{connectorClassName: oci, address: 'https://me:hunter2@r.example.com'}",
            "spec.address: has a user name or password in it: put them into a Secret and name that in spec.auth.secretRef",
        ),
        (
            "{connectorClassName: oci, address: 'https://r.example.com/?a=b'}",
            "spec.address: has a query: leave out the `?` and what follows it",
        ),
        (
            "{connectorClassName: oci, address: 'https://r.example.com/v2'}",
            "spec.address: has a path, but its class has the protocol OCI, where every path starts with /v2/: leave the path out",
        ),
        (
            "{connectorClassName: generic-basic, address: https://a.example.com}",
            "spec.auth.secretRef: is missing: the class does not work without a Secret: name one in this namespace",
        ),
        (
            "{connectorClassName: generic-basic, address: https://a.example.com, auth: {name: basicAuth}}",
            "spec.auth.secretRef: is missing: the class does not work without a Secret: name one in this namespace",
        ),
        (
            "{connectorClassName: generic-basic, address: https://a.example.com, auth: {name: basic-auth, secretRef: {name: login}}}",
            "spec.auth.name: the class has no authentication type `basic-auth`: use basicAuth",
        ),
        (
            "{connectorClassName: generic-basic, address: https://a.example.com, auth: {secretRef: {name: logn}}}",
            "spec.auth.secretRef.name: there is no Secret default/logn: add it to the files, or correct the name",
        ),
        (
            "{connectorClassName: generic-basic, address: https://a.example.com, auth: {secretRef: {}}}",
            "spec.auth.secretRef.name: is missing: name the Secret",
        ),
        (
            "{connectorClassName: generic-basic, address: https://a.example.com, auth: {secretRef: {name: login, namespace: other}}}",
            "spec.auth.secretRef.namespace: must be the Connector's own namespace, default: leave it out, and put the Secret there",
        ),
        (
            "{connectorClassName: generic-basic, address: https://a.example.com, auth: {secretRef: {name: login, kind: ConfigMap}}}",
            "spec.auth.secretRef.kind: must be Secret",
        ),
        (
            "{connectorClassName: generic-bearer, address: https://a.example.com, auth: {name: bearerTokenAuth, secretRef: {name: login}}}",
            "spec.auth.secretRef.name: the Secret has the type kubernetes.io/basic-auth, but bearerTokenAuth of class generic-bearer takes connectors.cpaas.io/bearer-token: use a Secret of that type",
        ),
        (
            "{connectorClassName: generic-bearer, address: https://a.example.com, auth: {secretRef: {name: login}}}",
            "spec.auth.secretRef.name: the Secret has the type kubernetes.io/basic-auth, which no authentication type of the class takes: use a Secret of type connectors.cpaas.io/bearer-token",
        ),
        (
            "{connectorClassName: oci, address: https://r.example.com, params: [{name: x, value: y}]}",
            "spec.params[0].name: is not declared by the class, which declares none: remove it",
        ),
        (
            "{connectorClassName: npm, address: https://r.example.com, params: [{name: x, value: y}]}",
            "spec.params[0].name: is not declared by the class: use one of registryType, strict-ssl",
        ),
        (
            "{connectorClassName: npm, address: https://r.example.com, params: [{name: strict-ssl, value: true}]}",
            "spec.params[0].value: must be a string: put it in quotes",
        ),
        (
            "{connectorClassName: npm, address: https://r.example.com, params: [{name: strict-ssl, value: 'no'}]}",
            "spec.params[0].value: is not allowed by the class: use one of \"true\", \"false\"",
        ),
        (
            "{connectorClassName: npm, address: https://r.example.com, params: [{name: strict-ssl, value: 'true'}, {name: strict-ssl, value: 'true'}]}",
            "spec.params[1].name: `strict-ssl` is given twice: keep one of them",
        ),
        (
            "{connectorClassName: npm, address: https://r.example.com, params: [{name: strict-ssl}]}",
            "spec.params[0].value: is missing: add it",
        ),
        (
            "{connectorClassName: npm, address: https://r.example.com, addressExtensions: [{name: x, value: 'https://b.example.com'}]}",
            "spec.addressExtensions[0].name: is not declared by the class, which declares none: remove it",
        ),
        (
            "{connectorClassName: oci, address: https://r.example.com, caCertSecretRef: {name: ca}}",
            "spec.caCertSecretRef.name: there is no Secret default/ca: add it to the files, or correct the name",
        ),
        (
            "{connectorClassName: oci, address: https://r.example.com, interception: {mode: Forward}}",
            "spec.interception.mode: limiting a Connector to one mode is not supported yet: leave it out",
        ),
        (
            "{connectorClassName: oci, address: https://r.example.com, interception: {egress: Pod}}",
            "spec.interception.egress: Pod is not supported yet: leave it out, or use Node",
        ),
        (
            "{connectorClassName: oci, address: https://r.example.com, interception: {failurePolicy: Opened}}",
            "spec.interception.failurePolicy: must be one of Closed, Open",
        ),
    ] {
        assert_eq!(
            fault_of(spec),
            format!("Connector default/c, {expected}"),
            "{spec}"
        );
    }
}

#[test]
fn extensions_must_follow_the_rules() {
    let class = class(
        "hub",
        "{addressExtensions: [{name: api}, {name: more, default: 'https://more.example.com'}]}",
    );
    for (extensions, expected) in [
        (
            "[]",
            "spec.addressExtensions: must have `api`: the class has no default for it",
        ),
        (
            "[{name: api, value: 'https://b.example.com'}, {name: b, value: 'https://c.example.com'}]",
            "spec.addressExtensions[1].name: is not declared by the class: use one of api, more",
        ),
        (
            "[{name: api, value: 'https://b.example.com'}, {name: api, value: 'https://c.example.com'}]",
            "spec.addressExtensions[1].name: `api` is given twice: keep one of them",
        ),
        (
            "[{name: api, value: ''}]",
            "spec.addressExtensions[0].value: has no scheme: write https:// or http:// before the host",
        ),
        (
            "[{name: api, value: 'ftp://b.example.com'}]",
            "spec.addressExtensions[0].value: has a scheme other than https and http: use one of these two",
        ),
        (
            "[{name: api, value: 'http://hub.example.com:443/'}]",
            "spec.addressExtensions[0].value: is the same as spec.address: remove it here",
        ),
        (
            "[{name: api, value: 'https://more.example.com'}]",
            "spec.addressExtensions (default of `more` in the class): is the same as another extension: keep one of them",
        ),
    ] {
        let spec = format!(
            "{{connectorClassName: hub, address: 'https://hub.example.com', addressExtensions: {extensions}}}"
        );
        let text = class.clone() + &connector("c", &spec);
        assert_eq!(
            fault(&text),
            format!("Connector default/c, {expected}"),
            "{extensions}"
        );
    }
}

#[test]
fn an_extension_counts_as_an_address() {
    let text = class("hub", "{addressExtensions: [{name: api}]}")
        + &connector(
            "a",
            "{connectorClassName: hub, address: https://a.example.com, \
                           addressExtensions: [{name: api, value: 'https://b.example.com:80/x'}]}",
        )
        + &connector(
            "b",
            "{connectorClassName: generic-basic, address: http://B.example.com/x/, \
                           auth: {secretRef: {name: login}}}",
        )
        + &login();
    assert_eq!(
        fault(&text),
        "Connector default/b, spec.address: leads to the same host, port and path as Connector \
         default/a (a.yaml, document 2): one address can have one Connector only"
    );
}

#[test]
fn a_class_must_follow_the_rules() {
    for (spec, expected) in [
        (
            "{params: [{name: a}, {name: a}]}",
            "spec.params[1].name: `a` is given twice: keep one of them",
        ),
        (
            "{addressExtensions: [{name: a}, {name: a}]}",
            "spec.addressExtensions[1].name: `a` is given twice: keep one of them",
        ),
        (
            "{auth: {types: [{name: a}, {name: a}]}}",
            "spec.auth.types[1].name: `a` is given twice: keep one of them",
        ),
        (
            "{auth: {types: [{name: a}]}, authProbes: [{authName: b}]}",
            "spec.authProbes[0].authName: there is no authentication type `b` in this class: use one of a",
        ),
        (
            "{auth: {types: [{name: a}]}, authProbes: [{authName: a}, {authName: a}]}",
            "spec.authProbes[1].authName: `a` is given twice: keep one of them",
        ),
        (
            "{livenessProbe: {http: {}}}",
            "spec.livenessProbe.http.path: is missing: add it",
        ),
        (
            "{livenessProbe: {http: {path: /, httpHeaders: {a: b}}}}",
            "spec.livenessProbe.http.httpHeaders: must be a list, not a mapping",
        ),
        ("{protocol: FTP}", "spec.protocol: must be one of HTTP, OCI"),
        (
            "{address: {description: x}}",
            "spec.address.name: is missing: add it",
        ),
    ] {
        let text = class("c", spec) + &connector("ok", SOUND) + &login();
        assert_eq!(
            fault(&text),
            format!("ConnectorClass c, {expected}"),
            "{spec}"
        );
    }
}

#[test]
fn authentication_types_that_cannot_be_used_are_named() {
    let two = class(
        "two",
        "{auth: {types: [{name: a, secretType: kubernetes.io/basic-auth}, \
         {name: b, secretType: kubernetes.io/basic-auth}]}}",
    );
    let opaque = class(
        "opaque",
        "{auth: {types: [{name: a, secretType: Opaque, params: [{name: token}]}]}}",
    );
    let spec = |class: &str, secret: &str| {
        connector(
            "c",
            &format!(
                "{{connectorClassName: {class}, address: 'https://a.example.com', \
             auth: {{secretRef: {{name: {secret}}}}}}}"
            ),
        )
    };
    let plain = secret("plain", "stringData: {token: hunter2}");
    for (text, expected) in [
        (
            two + &spec("two", "login") + &login(),
            "Connector default/c, spec.auth.name: is missing: the Secret fits several: use one of a, b",
        ),
        (
            opaque + &spec("opaque", "plain") + &plain,
            "Connector default/c, spec.auth: authentication type a without a built-in rule is not \
          supported yet: use a class whose secretType is kubernetes.io/basic-auth, \
          connectors.cpaas.io/bearer-token or kubernetes.io/tls",
        ),
    ] {
        assert_eq!(fault(&text), expected, "{text}");
    }
}

#[test]
fn a_generator_is_judged_with_its_class_and_with_what_it_is_given() {
    let rego = |protocol: &str, rego: &str| {
        let text = format!(
            "{{protocol: {protocol}, auth: {{types: [{{name: a, generator: {{rego: '{rego}'}}}}]}}}}"
        );
        class("rego", &text)
    };
    let user = connector(
        "c",
        "{connectorClassName: rego, address: 'https://a.example.com', auth: {secretRef: {name: s}}}",
    ) + &secret("s", "stringData: {token: hunter2}");
    let sound =
        "package proxy\nauth := {\"position\": \"header\", \"auth\": {\"x\": input.data.token}}";
    let sound = sound.replace('\n', "\n\n  ");
    let place = "ConnectorClass rego, spec.auth.types[0].generator.rego: ";
    for (text, expected) in [
        (
            rego("HTTP", "package other"),
            format!("{place}is of another package: begin it with `package proxy`"),
        ),
        (
            rego("HTTP", &sound.replace("input.data.token", "http.send({})")),
            format!(
                "{place}line 2: `http.send` is not available to a generator: use one of the \
                 functions that the documentation of classes lists"
            ),
        ),
        (
            rego("OCI", &sound),
            format!(
                "{place}a generator in a class of protocol OCI is not supported yet: leave it \
                 out, or use protocol HTTP"
            ),
        ),
    ] {
        // Said once, whoever uses the class.
        assert_eq!(fault(&(text + &user)), expected);
    }
    let missing = rego("HTTP", &sound.replace("data.token", "data.key")) + &user;
    assert_eq!(
        fault(&missing),
        "Connector default/c, spec.auth.secretRef.name: the generator of a, given this Secret, \
         leaves `auth` undefined: check the conditions, and the names of the keys of input.data \
         and input.params"
    );
    let loaded = loaded(&(rego("HTTP", &sound) + &user));
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let Some(Credential::Generated(generated)) = &loaded.connectors[0].credential else {
        panic!("{loaded:?}");
    };
    assert!(!generated.needs_body() && generated.data().contains_key("token"));
}

#[test]
fn an_object_given_twice_names_the_first() {
    let text = connector("c", SOUND) + &login() + &login();
    assert_eq!(
        fault(&text),
        "Secret default/login: is given twice: the other one is in a.yaml, document 2; remove one"
    );
}

#[test]
fn a_broken_object_is_not_reported_missing_as_well() {
    let text =
        connector("c", SOUND) + &secret("login", "type: kubernetes.io/basic-auth\nstringdata: {}");
    assert_eq!(
        fault(&text),
        "Secret default/login: unknown field `stringdata`: leave it out, or correct it to one of apiVersion, \
         kind, metadata, type, data, stringData, immutable"
    );
    let text = class("x", "{protocol: FTP}")
        + &connector(
            "c",
            "{connectorClassName: x, address: https://a.example.com}",
        );
    assert_eq!(
        fault(&text),
        "ConnectorClass x, spec.protocol: must be one of HTTP, OCI"
    );
}

#[test]
fn a_broken_document_hides_no_fault_after_it() {
    let text = "a: [\n---\n".to_owned() + &connector("c", "{connectorClassName: x}");
    assert_eq!(faults(&text).len(), 2);
}
