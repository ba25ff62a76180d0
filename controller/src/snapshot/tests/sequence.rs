//! Whatever happens in whatever order: deltas lead to the same as the whole state.

use std::sync::Arc;

use super::*;
use crate::snapshot::{Feed, Node};
use crate::testing::login;

const SEEDS: u64 = 64;
const STEPS: usize = 200;

/// Marsaglia's xorshift: the same sequence for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits are the weakest.
        (self.0 >> 16) % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let index = self.below(from.len() as u64);
        from[usize::try_from(index).expect("it is small")]
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const ACCOUNTS: [&str; 3] = ["builder", "tester", "default"];
const UIDS: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

/// One change of the cluster.
fn change(random: &mut Random, catalog: &mut Catalog, node: &mut Node, reviews: &mut Reviews) {
    let name = random.pick(&NAMES);
    match random.below(8) {
        0..=2 => {
            let secret = login(random.pick(&["hunter2", "hunter3", "bad\n"]));
            let version = random.pick(&["1", "2", "3"]);
            let secret = (random.below(4) > 0).then_some((&secret, version));
            let addresses = [
                "https://a.example.com",
                "http://b.example.com/x",
                "nonsense",
            ];
            let spec = at(random.pick(&addresses));
            let uid = random.pick(&["first", "first", "first", "second"]);
            publish_as(catalog, uid, name, &spec, secret);
        }
        3 => {
            catalog.remove("team", name);
        }
        4 | 5 => {
            let namespace = random.pick(&["team", "team", "other"]);
            node.upsert(pod(random.pick(&UIDS), namespace, random.pick(&ACCOUNTS)));
        }
        6 => {
            node.remove(random.pick(&UIDS));
        }
        _ => {
            let connector = (random.below(2) == 0).then_some(name);
            let review = review(random.pick(&ACCOUNTS), connector);
            reviews.answer(review, random.below(2) == 0);
        }
    }
}

#[test]
fn deltas_lead_to_the_whole_state() {
    let mut with_connectors = 0;
    for seed in 1..=SEEDS {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (mut catalog, mut node, mut reviews) = (catalog(), Node::default(), Reviews::default());
        let (mut feed, mut agent) = (Feed::default(), Agent::default());
        for step in 0..STEPS {
            change(&mut random, &mut catalog, &mut node, &mut reviews);
            // An agent that is slow skips states.
            if random.below(3) == 0 {
                continue;
            }
            let state = Arc::new(node.evaluate(&catalog, &reviews).0);
            if let Some(update) = feed.next(&state) {
                agent.apply(update);
            }
            let mut expected = Agent::default();
            expected.apply(state.full(1));
            assert!(agent == expected, "seed {seed}, step {step}");
            agent.assert_is_consistent();
            with_connectors += usize::from(!agent.connectors.is_empty());
        }
    }
    // The sequences are about something.
    assert!(with_connectors > STEPS, "{with_connectors}");
}
