//! Parameters: what a class declares, what a Connector gives, what defaults fill in.

use proxy_common::api::{Param, ParamSpec};

use super::class::given_twice;
use super::error::{Findings, Problem};
use super::{Address, Protocol, limits};

/// The parameters in force: those given, then the defaults of those declared.
///
/// Names must be declared and unique, values must be strings that the declaration allows,
/// and what has no default must be given.
pub(super) fn resolve(
    list: &str,
    given: &[Param],
    declared: &[ParamSpec],
    findings: &mut Findings<'_>,
) -> Vec<Param> {
    let mut params: Vec<Param> = Vec::with_capacity(declared.len());
    for (index, param) in given.iter().enumerate() {
        let field = format!("{list}[{index}]");
        let Some(spec) = declared.iter().find(|spec| spec.name == param.name) else {
            findings.add(format!("{field}.name"), undeclared(declared));
            continue;
        };
        if params.iter().any(|other| other.name == param.name) {
            findings.add(format!("{field}.name"), given_twice(&param.name));
            continue;
        }
        match param.value.as_str() {
            None => findings.add(
                format!("{field}.value"),
                Problem::Rule("must be a string: put it in quotes".to_owned()),
            ),
            Some(text) if !spec.enum_.is_empty() && !spec.enum_.iter().any(|it| it == text) => {
                findings.add(format!("{field}.value"), one_of(&spec.enum_));
            }
            Some(_) => {}
        }
        params.push(param.clone());
    }
    for spec in declared {
        if params.iter().any(|param| param.name == spec.name) {
            continue;
        }
        match &spec.default {
            Some(value) => params.push(Param {
                name: spec.name.clone(),
                value: value.clone(),
            }),
            None => findings.add(
                list,
                Problem::Rule(format!(
                    "must have `{}`: the class has no default for it",
                    spec.name
                )),
            ),
        }
    }
    params
}

/// `spec.addressExtensions` in force, as addresses.
pub(super) fn extensions(
    given: &[Param],
    declared: &[ParamSpec],
    address: Option<&Address>,
    protocol: Protocol,
    findings: &mut Findings<'_>,
) -> (Vec<Param>, Vec<Address>) {
    const LIST: &str = "spec.addressExtensions";
    // Those that are within the limit are kept, so that they are refused.
    let all = given.len();
    let given = &given[..all.min(limits::EXTENSIONS)];
    let mut params = resolve(LIST, given, declared, findings);
    if all.max(params.len()) > limits::EXTENSIONS {
        findings.add(LIST, too_many());
        params.truncate(limits::EXTENSIONS);
    }
    let mut addresses: Vec<Address> = Vec::with_capacity(params.len());
    for param in &params {
        // A value that is no string has been reported; a default is the class's to mend.
        let Some(text) = param.value.as_str() else {
            continue;
        };
        let field = match given.iter().position(|it| it.name == param.name) {
            Some(index) => format!("{LIST}[{index}].value"),
            None => format!("{LIST} (default of `{}` in the class)", param.name),
        };
        match parse(text, protocol) {
            Err(problem) => findings.add(field, problem),
            Ok(extension) if address.is_some_and(|address| same(address, &extension)) => {
                findings.add(
                    field,
                    Problem::Rule("is the same as spec.address: remove it here".to_owned()),
                );
            }
            Ok(extension) if addresses.iter().any(|other| same(other, &extension)) => {
                findings.add(
                    field,
                    Problem::Rule("is the same as another extension: keep one of them".to_owned()),
                );
            }
            Ok(extension) => addresses.push(extension),
        }
    }
    (params, addresses)
}

fn too_many() -> Problem {
    Problem::Rule(format!(
        "has more than {} addresses, defaults of the class included: make another Connector \
         for the others",
        limits::EXTENSIONS
    ))
}

/// Reads an address and applies the rule of its protocol.
pub(super) fn parse(text: &str, protocol: Protocol) -> Result<Address, Problem> {
    let address = Address::parse(text)?;
    if protocol == Protocol::Oci && !address.path.is_empty() {
        return Err(super::AddressError::OciPath.into());
    }
    Ok(address)
}

/// Whether two addresses lead to the same place; the scheme is no part of that.
fn same(one: &Address, other: &Address) -> bool {
    (&one.host, one.port, &one.path) == (&other.host, other.port, &other.path)
}

fn undeclared(declared: &[ParamSpec]) -> Problem {
    Problem::Rule(if declared.is_empty() {
        "is not declared by the class, which declares none: remove it".to_owned()
    } else {
        let names: Vec<&str> = declared.iter().map(|spec| &*spec.name).collect();
        format!(
            "is not declared by the class: use one of {}",
            names.join(", ")
        )
    })
}

/// A value outside those that a class allows.
pub(super) fn one_of(allowed: &[String]) -> Problem {
    let quoted: Vec<String> = allowed.iter().map(|value| format!("\"{value}\"")).collect();
    Problem::Rule(format!(
        "is not allowed by the class: use one of {}",
        quoted.join(", ")
    ))
}
