//! Random operations, hostile ones among them: nothing is lost, nothing has two holders.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shm_ring::desc::{Desc, Verdict};

use super::*;
use crate::audit::InHand;
use crate::ids::{ChainId, PortId};
use crate::ledger::PacketPath;
use crate::recovery::RingJournal;

const FIRST: u32 = 64;
const SIZE: usize = 12;
const ENDPOINTS: u16 = 3;
const LIMITS: FrameLimits = FrameLimits { stride_bytes: 2368, frame_bytes_min: 14, frame_bytes_max: 2368 };

#[derive(Clone, Debug)]
enum Operation {
    Take(usize),
    /// Any index at all, also a foreign one.
    Give(u32),
    Receive(u32),
    Lend(u32, u16, bool),
    Send(u32),
    /// What an honest endpoint gives back: the n-th of its loans.
    GiveBack(u16, usize, u8),
    /// Any words at all, with the index mostly of this shard.
    Hostile(u16, u64, u64, bool),
    /// A valid descriptor of one endpoint, given by another or a second time.
    Stolen(u16, usize),
    Quarantine(u16),
    Reclaim(u16),
    Observe(u32),
    Unobserve(u32),
    /// The process dies after the journal has reached this sequence, and another takes over.
    Crash(u32),
}

fn index() -> impl Strategy<Value = u32> {
    prop_oneof![9 => FIRST..FIRST + 12, 1 => any::<u32>()]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let endpoint = || 0..ENDPOINTS;
    prop_oneof![
        4 => (0..5usize).prop_map(Take),
        3 => index().prop_map(Give),
        6 => index().prop_map(Receive),
        6 => (index(), endpoint(), any::<bool>()).prop_map(|(i, e, k)| Lend(i, e, k)),
        2 => index().prop_map(Send),
        4 => (endpoint(), any::<usize>(), 0x11..0x16u8).prop_map(|(e, n, v)| GiveBack(e, n, v)),
        4 => (endpoint(), any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(e, a, b, near)| Hostile(e, a, b, near)),
        3 => (endpoint(), any::<usize>()).prop_map(|(e, n)| Stolen(e, n)),
        1 => endpoint().prop_map(Quarantine),
        1 => endpoint().prop_map(Reclaim),
        4 => index().prop_map(Observe),
        4 => index().prop_map(Unobserve),
        1 => (0..40u32).prop_map(Crash),
    ]
}

/// What a second bookkeeper knows, by index: state, holder, observers, and the descriptor of the current loan.
struct Model {
    state: BTreeMap<u32, (HolderState, u16)>,
    observers: BTreeMap<u32, u32>,
    loans: Vec<(u16, Desc, u32)>,
    /// Every descriptor that was ever good.
    old: Vec<Desc>,
    sequence: u32,
}

impl Model {
    fn new() -> Self {
        let state = (FIRST..FIRST + 12).map(|index| (index, (HolderState::Pool, 0))).collect();
        Self { state, observers: BTreeMap::new(), loans: Vec::new(), old: Vec::new(), sequence: 0 }
    }

    fn is(&self, index: u32, wanted: &[HolderState]) -> bool {
        self.state.get(&index).is_some_and(|(state, _)| wanted.contains(state))
    }

    fn set(&mut self, index: u32, state: HolderState, endpoint: u16) {
        self.state.insert(index, (state, endpoint));
    }

    fn observers(&self, index: u32) -> u32 {
        self.observers.get(&index).copied().unwrap_or(0)
    }

    fn count(&self, wanted: HolderState) -> u32 {
        u32::try_from(self.state.values().filter(|(state, _)| *state == wanted).count()).unwrap()
    }

    fn held(&self, endpoint: u16) -> u32 {
        let is_held = |(state, e): &&(HolderState, u16)| {
            matches!(state, HolderState::Endpoint | HolderState::Quarantined) && *e == endpoint
        };
        u32::try_from(self.state.values().filter(is_held).count()).unwrap()
    }

    fn end_loans(&mut self, ended: impl Fn(u16, u32) -> bool) {
        self.loans.retain(|(endpoint, desc, _)| !ended(*endpoint, desc.buffer_index));
    }
}

fn path() -> PacketPath {
    PacketPath { chain: ChainId(0), hop: 0, visited: 0, ingress_port: PortId(0), flow_hash: 0 }
}

fn apply(shard: &mut Shard<'_>, model: &mut Model, operation: &Operation) {
    match *operation {
        Operation::Take(count) => {
            let mut out = vec![0; count];
            let fits = model.count(HolderState::Pool) as usize >= count;
            assert_eq!(shard.take(&mut out), fits);
            for index in out.into_iter().filter(|_| fits) {
                assert!(model.is(index, &[HolderState::Pool]), "taken twice: {index}");
                model.set(index, HolderState::Pmd, 0);
            }
        }
        Operation::Give(index) => {
            shard.give(&[index]);
            if model.is(index, &[HolderState::Pmd, HolderState::Lcore]) {
                let is_observed = model.observers(index) > 0;
                model.set(index, if is_observed { HolderState::Pinned } else { HolderState::Pool }, 0);
            }
        }
        Operation::Receive(index) => {
            let ingress = Ingress { path: path(), vlan: 0, class: 0, offload_flags: 0, host_time_ms: 0 };
            let expected = model.is(index, &[HolderState::Pmd]);
            assert_eq!(shard.received(BufferIndex(index), &ingress), expected);
            if expected {
                model.set(index, HolderState::Lcore, 0);
            }
        }
        Operation::Lend(index, endpoint, with_packet) => lend(shard, model, index, endpoint, with_packet),
        Operation::Send(index) => {
            let expected = model.is(index, &[HolderState::Lcore]);
            assert_eq!(shard.send(BufferIndex(index)), expected);
            if expected {
                model.set(index, HolderState::Pmd, 0);
            }
        }
        Operation::GiveBack(endpoint, n, code) => {
            let own: Vec<Desc> =
                model.loans.iter().filter(|(e, ..)| *e == endpoint).map(|(_, desc, _)| *desc).collect();
            if !own.is_empty() {
                give_back(shard, model, endpoint, Desc { code, ..own[n % own.len()] }.pack());
            }
        }
        Operation::Hostile(endpoint, word0, word1, near) => {
            let mut desc = RawDesc { word0, word1 }.unpack();
            if near {
                desc.buffer_index = FIRST + desc.buffer_index % 12;
            }
            give_back(shard, model, endpoint, desc.pack());
        }
        Operation::Stolen(endpoint, n) => {
            if !model.old.is_empty() {
                let desc = model.old[n % model.old.len()];
                give_back(shard, model, endpoint, desc.pack());
            }
        }
        Operation::Quarantine(endpoint) => {
            shard.quarantine(EndpointId(endpoint));
            for (state, holder) in model.state.values_mut() {
                if *state == HolderState::Endpoint && *holder == endpoint {
                    *state = HolderState::Quarantined;
                }
            }
            model.end_loans(|holder, _| holder == endpoint);
        }
        Operation::Reclaim(endpoint) => {
            let home = shard.reclaim(EndpointId(endpoint));
            let waiting: Vec<u32> = model
                .state
                .iter()
                .filter(|(_, held)| **held == (HolderState::Quarantined, endpoint))
                .map(|(index, _)| *index)
                .collect();
            assert!(home.iter().map(|reclaimed| reclaimed.index.0).eq(waiting.iter().copied()));
            waiting.into_iter().for_each(|index| model.set(index, HolderState::Lcore, 0));
        }
        Operation::Observe(index) => {
            let expected = model.is(index, &[HolderState::Lcore]);
            assert_eq!(shard.observe(BufferIndex(index)), expected);
            if expected {
                *model.observers.entry(index).or_default() += 1;
            }
        }
        Operation::Unobserve(index) => {
            let before = model.observers(index);
            assert_eq!(shard.unobserve(BufferIndex(index)), before > 0);
            if before > 0 {
                model.observers.insert(index, before - 1);
            }
            if before == 1 && model.is(index, &[HolderState::Pinned]) {
                model.set(index, HolderState::Pool, 0);
            }
        }
        Operation::Crash(_) => unreachable!("handled where the shard is made"),
    }
}

fn lend(shard: &mut Shard<'_>, model: &mut Model, index: u32, endpoint: u16, with_packet: bool) {
    let kind = if with_packet { Kind::Packet } else { Kind::Empty };
    let loan = Loan { endpoint: EndpointId(endpoint), sequence: model.sequence, kind, path: path() };
    let generation = shard.lend(BufferIndex(index), &loan);
    assert_eq!(generation.is_some(), model.is(index, &[HolderState::Lcore]));
    if let Some(generation) = generation {
        let desc = Desc {
            buffer_index: index,
            data_offset_bytes: 128,
            data_len_bytes: 60,
            generation,
            code: Verdict::Next as u8,
            flags: 0,
            aux: 0,
        };
        model.set(index, HolderState::Endpoint, endpoint);
        model.loans.push((endpoint, desc, model.sequence));
        model.old.push(desc);
        model.sequence += 1;
    }
}

/// Whatever is accepted must be the current loan of that very endpoint.
fn give_back(shard: &mut Shard<'_>, model: &mut Model, endpoint: u16, raw: RawDesc) {
    let desc = raw.unpack();
    let is_own_loan = model.loans.iter().any(|(holder, loan, _)| {
        *holder == endpoint && loan.buffer_index == desc.buffer_index && loan.generation == desc.generation
    });
    if let Ok(returned) = shard.take_back(EndpointId(endpoint), raw, &LIMITS) {
        assert!(is_own_loan, "accepted {desc:?} from endpoint {endpoint}");
        assert!(u32::from(returned.data_offset_bytes) + u32::from(returned.data_len_bytes) <= 2368);
        model.set(returned.index.0, HolderState::Lcore, 0);
        model.end_loans(|_, index| index == returned.index.0);
    }
}

fn recover(model: &mut Model, published: u32) {
    let unpublished: Vec<u32> = model
        .loans
        .iter()
        .filter(|(_, _, sequence)| *sequence >= published)
        .map(|(_, desc, _)| desc.buffer_index)
        .collect();
    model.observers.clear();
    for (index, (state, _)) in &mut model.state {
        let comes_home = match state {
            HolderState::Pool | HolderState::Quarantined => false,
            HolderState::Pmd | HolderState::Lcore | HolderState::Pinned => true,
            HolderState::Endpoint => unpublished.contains(index),
        };
        if comes_home {
            *state = HolderState::Pool;
        }
    }
    model.end_loans(|_, index| unpublished.contains(&index));
}

fn compare(shard: &Shard<'_>, model: &Model) {
    let audit = shard.audit();
    let (lcore, pmd) = (model.count(HolderState::Lcore), Some(model.count(HolderState::Pmd)));
    let references = Some(model.observers.values().copied().map(u64::from).sum());
    assert_eq!(audit.findings(InHand { lcore, pmd, references }), []);
    assert_eq!(audit.pool, model.count(HolderState::Pool));
    assert_eq!(audit.pinned, model.count(HolderState::Pinned));
    for endpoint in 0..ENDPOINTS {
        assert_eq!(shard.held_by(EndpointId(endpoint)), model.held(endpoint));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn conservation_survives_any_sequence_of_operations(
        operations in proptest::collection::vec(operation(), 1..160)
    ) {
        let mut entries = vec![LedgerEntry::default(); SIZE];
        let mut stack = vec![0; SIZE];
        let mut model = Model::new();
        let mut rest = operations.as_slice();
        let mut published = None;
        loop {
            let mut shard = match published {
                None => Shard::fresh(FIRST, &mut entries, &mut stack).unwrap(),
                Some(published) => {
                    recover(&mut model, published);
                    let journal = |_| RingJournal { published, slot_count: 256 };
                    Shard::recover(FIRST, &mut entries, &mut stack, journal).unwrap().0
                }
            };
            compare(&shard, &model);
            let calm = rest.iter().take_while(|operation| !matches!(operation, Operation::Crash(_))).count();
            for operation in &rest[..calm] {
                apply(&mut shard, &mut model, operation);
                compare(&shard, &model);
            }
            let Some(Operation::Crash(sequence)) = rest.get(calm) else { break };
            published = Some(*sequence);
            rest = &rest[calm + 1..];
        }
    }

    #[test]
    fn a_descriptor_of_arbitrary_bits_never_moves_a_buffer_that_is_not_lent(
        word0: u64, word1: u64, endpoint in 0..ENDPOINTS
    ) {
        let mut entries = vec![LedgerEntry::default(); SIZE];
        let mut stack = vec![0; SIZE];
        let mut shard = Shard::fresh(FIRST, &mut entries, &mut stack).unwrap();
        let raw = RawDesc { word0, word1 };
        let outcome = shard.take_back(EndpointId(endpoint), raw, &LIMITS);
        prop_assert!(outcome.is_err());
    }
}
