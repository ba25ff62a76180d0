use super::*;

/// Namespace, name and id.
struct Fixed(&'static [(&'static str, &'static str, u32)]);

impl Directory for Fixed {
    fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&str, ConnectorId)> {
        self.0
            .iter()
            .filter(move |(it, ..)| *it == namespace)
            .map(|(_, name, id)| (*name, ConnectorId(*id)))
    }
}

const CONNECTORS: Fixed = Fixed(&[
    ("team", "git", 1),
    ("team", "registry", 2),
    ("other", "git", 3),
]);

fn pod(uid: &str, namespace: &str, service_account: &str) -> Pod {
    Pod {
        uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: format!("pod-{uid}"),
        service_account: service_account.to_owned(),
        ips: Vec::new(),
        host_network: false,
    }
}

fn review(namespace: &str, service_account: &str, connector: Option<&str>) -> Review {
    Review {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        connector: connector.map(str::to_owned),
    }
}

fn set(ids: &[u32]) -> BTreeSet<ConnectorId> {
    ids.iter().copied().map(ConnectorId).collect()
}

#[test]
fn a_pod_is_granted_what_its_account_passes_the_review_for() {
    type Answers = &'static [(Option<&'static str>, bool)];
    type Open = &'static [Option<&'static str>];
    let cases: &[(&str, Answers, &[u32], Open)] = &[
        ("no answer: nothing, and a question", &[], &[], &[None]),
        ("yes to all", &[(None, true)], &[1, 2], &[]),
        (
            "no to all: each is asked for",
            &[(None, false)],
            &[],
            &[Some("git"), Some("registry")],
        ),
        (
            "no to all, yes to one",
            &[
                (None, false),
                (Some("git"), false),
                (Some("registry"), true),
            ],
            &[2],
            &[],
        ),
        (
            "one is still open: the other is granted, and a stand-in for this one",
            &[(None, false), (Some("git"), true)],
            &[1, 2 | UNDECIDED],
            &[Some("registry")],
        ),
        (
            "no to one, the other is still open: nothing yet",
            &[(None, false), (Some("git"), false)],
            &[],
            &[Some("registry")],
        ),
        (
            "yes to one counts only with a no to all",
            &[(Some("git"), true)],
            &[],
            &[None],
        ),
    ];
    for (name, answers, granted, open) in cases {
        let mut reviews = Reviews::default();
        for (connector, allowed) in *answers {
            reviews.answer(review("team", "builder", *connector), *allowed);
        }
        let pods = [pod("a", "team", "builder")];
        let grants = Grants::decide(&pods, &CONNECTORS, &reviews);
        assert_eq!(grants.of_pods["a"], set(granted), "{name}");
        let open: BTreeSet<Review> = open
            .iter()
            .map(|connector| review("team", "builder", *connector))
            .collect();
        assert_eq!(grants.open, open, "{name}");
    }
}

#[test]
fn connectors_of_another_namespace_are_never_granted() {
    let mut reviews = Reviews::default();
    for namespace in ["team", "other"] {
        reviews.answer(review(namespace, "builder", None), true);
    }
    let pods = [pod("a", "team", "builder"), pod("b", "other", "builder")];
    let grants = Grants::decide(&pods, &CONNECTORS, &reviews);
    assert_eq!(grants.of_pods["a"], set(&[1, 2]));
    assert_eq!(grants.of_pods["b"], set(&[3]));
}

#[test]
fn an_account_of_the_same_name_elsewhere_counts_for_nothing() {
    let mut reviews = Reviews::default();
    reviews.answer(review("other", "builder", None), true);
    let pods = [pod("a", "team", "builder"), pod("b", "team", "default")];
    let grants = Grants::decide(&pods, &CONNECTORS, &reviews);
    assert!(grants.of_pods.values().all(BTreeSet::is_empty));
    assert_eq!(grants.open.len(), 2);
}

#[test]
fn nothing_is_asked_where_there_is_no_connector() {
    let pods = [pod("a", "empty", "builder")];
    let grants = Grants::decide(&pods, &CONNECTORS, &Reviews::default());
    assert_eq!(grants.of_pods["a"], set(&[]));
    assert!(grants.open.is_empty());
}

#[test]
fn pods_of_the_host_network_are_granted_like_others() {
    let mut reviews = Reviews::default();
    reviews.answer(review("team", "builder", None), true);
    let pods = [Pod {
        host_network: true,
        ..pod("a", "team", "builder")
    }];
    let grants = Grants::decide(&pods, &CONNECTORS, &reviews);
    assert_eq!(grants.of_pods["a"], set(&[1, 2]));
}

#[test]
fn a_pod_is_pending_until_all_questions_about_it_are_answered() {
    let pods = [
        pod("a", "team", "builder"),
        pod("b", "team", "builder"),
        pod("c", "team", "reader"),
        pod("d", "no-connectors", "builder"),
    ];
    let mut reviews = Reviews::default();
    let pending = |reviews: &Reviews| Grants::decide(&pods, &CONNECTORS, reviews).pending;
    let uids =
        |uids: &[&str]| -> BTreeSet<String> { uids.iter().map(ToString::to_string).collect() };
    assert_eq!(pending(&reviews), uids(&["a", "b", "c"]));
    reviews.answer(review("team", "builder", None), true);
    assert_eq!(pending(&reviews), uids(&["c"]));
    reviews.answer(review("team", "reader", None), false);
    reviews.answer(review("team", "reader", Some("git")), true);
    assert_eq!(pending(&reviews), uids(&["c"]), "one Connector is open");
    reviews.answer(review("team", "reader", Some("registry")), false);
    assert_eq!(pending(&reviews), uids(&[]));
}

#[test]
fn a_forgotten_answer_is_asked_for_again() {
    let mut reviews = Reviews::default();
    reviews.answer(review("team", "builder", None), true);
    reviews.retain(|review| review.namespace != "team");
    let pods = [pod("a", "team", "builder")];
    let grants = Grants::decide(&pods, &CONNECTORS, &reviews);
    assert_eq!(grants.open.len(), 1);
}

#[test]
fn equal_sets_share_a_policy_and_keep_its_id() {
    let mut policies = Policies::default();
    policies.update([&set(&[1, 2]), &set(&[3]), &set(&[1, 2]), &set(&[])]);
    assert_eq!(policies.iter().count(), 2);
    let (both, one) = (policies.id(&set(&[1, 2])), policies.id(&set(&[3])));
    assert!(both != 0 && one != 0 && both != one);
    assert_eq!(policies.id(&set(&[])), 0);

    policies.update([&set(&[3]), &set(&[4])]);
    assert_eq!(policies.id(&set(&[3])), one);
    assert_eq!(policies.id(&set(&[1, 2])), 0);

    let mut other = Policies::default();
    other.update([&set(&[3]), &set(&[1, 2])]);
    assert_eq!((other.id(&set(&[1, 2])), other.id(&set(&[3]))), (both, one));
}

#[test]
fn policy_ids_skip_those_in_use_and_those_with_a_meaning() {
    let policies = Policies(BTreeMap::from([(set(&[1]), u32::MAX - 1), (set(&[2]), 1)]));
    assert_eq!(policies.free(u32::MAX), 2);
    assert_eq!(policies.free(u32::MAX - 1), 2);
    assert_eq!(policies.free(0), 2);
    assert_eq!(policies.free(7), 7);
}
