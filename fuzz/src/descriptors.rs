//! Descriptors of hostile endpoints, between the host's own operations on the ledger.
//!
//! A second bookkeeper says of each descriptor whether it may be taken, and of each buffer who has it; after
//! each step the ledger must agree and its audit find nothing.

use shm_ring::desc::{Desc, Kind, RawDesc, Verdict};
use switch_core::audit::InHand;
use switch_core::ids::{BufferIndex, ChainId, EndpointId, PortId};
use switch_core::ledger::{LedgerEntry, PacketPath};
use switch_core::passage::Passage;
use switch_core::shard::{Ingress, Loan, Shard};

use crate::Input;
use crate::ledger_model::{ENDPOINTS, FIRST, Holder, LIMITS, Lent, Model, SIZE};

/// Steps of one run at most: what takes more, takes fewer and more runs.
const STEPS_MAX: usize = 96;
/// Descriptors of one burst.
const BURST: usize = 6;

struct Bench<'l> {
    shard: Shard<'l>,
    model: Model,
    /// Good descriptors of the past, to be given again.
    old: Vec<RawDesc>,
    sequence: u32,
    /// The buffer that the last step was about: what follows is often about the same.
    touched: u32,
}

/// Runs operations on a shard, with descriptors that are nearly right or not at all.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut entries = [LedgerEntry::default(); SIZE];
    let mut stack = [0; SIZE];
    let Ok(shard) = Shard::fresh(FIRST, &mut entries, &mut stack) else { unreachable!("sizes are equal") };
    let mut bench = Bench { shard, model: Model::default(), old: Vec::new(), sequence: 0, touched: FIRST };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        bench.step(&mut input);
        bench.compare();
    }
}

impl Bench<'_> {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(14) {
            0 => self.take(usize::from(input.below(5))),
            1 => {
                let index = self.index(input);
                self.receive(index);
            }
            2 | 3 => {
                let index = self.index(input);
                self.lend(index, input);
            }
            4 => {
                let index = self.index(input);
                self.send(index);
            }
            5 => {
                let index = self.index(input);
                self.give(index);
            }
            6 => self.quarantine(endpoint(input)),
            7 => self.reclaim(endpoint(input)),
            8 => self.pass_on(input),
            10 => {
                let index = self.index(input);
                self.observe(index);
            }
            11 => {
                let index = self.index(input);
                self.unobserve(index);
            }
            // The way that a packet takes most often, in one step.
            9 => {
                self.take(1);
                let index = self.model.buffers.iter().position(|(holder, _)| *holder == Holder::Pmd);
                if let Some(index) = index.and_then(|local| u32::try_from(local).ok()) {
                    self.receive(FIRST + index);
                    self.lend(FIRST + index, input);
                }
            }
            _ => {
                let giver = endpoint(input);
                let raw = self.descriptor(giver, input);
                self.take_back(giver, raw);
            }
        }
    }

    fn take(&mut self, count: usize) {
        let mut out = vec![u32::MAX; count];
        let fits = self.model.count(|holder| *holder == Holder::Pool) as usize >= count;
        assert_eq!(self.shard.take(&mut out), fits, "the pool gives what it has");
        for index in out.into_iter().filter(|_| fits) {
            assert!(self.model.is(index, Holder::Pool), "buffer {index} was given out twice");
            self.set(index, Holder::Pmd);
            self.touched = index;
        }
    }

    fn set(&mut self, index: u32, new: Holder) {
        if let Some((holder, _)) = self.model.at(index) {
            *holder = new;
        }
    }

    fn receive(&mut self, index: u32) {
        let ingress = Ingress { path: path(0, 0), vlan: 0, class: 0, offload_flags: 0, host_time_ms: 0 };
        let expected = self.model.is(index, Holder::Pmd);
        assert_eq!(self.shard.received(BufferIndex(index), &ingress), expected, "receives what a driver had");
        if expected {
            self.set(index, Holder::Lcore);
        }
    }

    fn lend(&mut self, index: u32, input: &mut Input<'_>) {
        let kind = if input.below(4) == 0 { Kind::Empty } else { Kind::Packet };
        let lent = Lent {
            endpoint: endpoint(input),
            kind,
            path: PacketPath { flow_hash: input.below(2).into(), ..path(input.below(2), input.below(2)) },
        };
        let sequence = self.sequence;
        let loan = Loan { endpoint: EndpointId(lent.endpoint), sequence, kind, path: lent.path };
        let generation = self.shard.lend(BufferIndex(index), &loan);
        assert_eq!(generation.is_some(), self.model.is(index, Holder::Lcore), "lends what the lcore has");
        let Some(generation) = generation else { return };
        self.sequence = sequence.wrapping_add(1);
        self.set(index, Holder::Endpoint(lent));
        let told = self.model.at(index).map(|(_, generation)| *generation);
        assert_eq!(told, Some(generation), "an endpoint is told the generation of its loan");
        self.old.push(good(index, generation).pack());
    }

    fn send(&mut self, index: u32) {
        let expected = self.model.is(index, Holder::Lcore);
        assert_eq!(self.shard.send(BufferIndex(index)), expected, "sends what the lcore has");
        if expected {
            self.set(index, Holder::Pmd);
        }
    }

    fn give(&mut self, index: u32) {
        self.shard.give(&[index]);
        if self.model.is(index, Holder::Pmd) || self.model.is(index, Holder::Lcore) {
            let is_observed = self.model.observers_of(index).is_some_and(|count| *count > 0);
            self.set(index, if is_observed { Holder::Pinned } else { Holder::Pool });
        }
    }

    fn observe(&mut self, index: u32) {
        let expected = self.model.is(index, Holder::Lcore);
        assert_eq!(self.shard.observe(BufferIndex(index)), expected, "shows what the lcore has");
        if let Some(count) = self.model.observers_of(index).filter(|_| expected) {
            *count += 1;
        }
    }

    fn unobserve(&mut self, index: u32) {
        let before = self.model.observers_of(index).map_or(0, |count| {
            let before = *count;
            *count = before.saturating_sub(1);
            before
        });
        assert_eq!(self.shard.unobserve(BufferIndex(index)), before > 0, "ends what was shown");
        if before == 1 && self.model.is(index, Holder::Pinned) {
            self.set(index, Holder::Pool);
        }
    }

    fn quarantine(&mut self, endpoint: u16) {
        let mut count = 0;
        for (holder, _) in &mut self.model.buffers {
            if let Holder::Endpoint(lent) = *holder
                && lent.endpoint == endpoint
            {
                *holder = Holder::Quarantined(lent);
                count += 1;
            }
        }
        assert_eq!(self.shard.quarantine(EndpointId(endpoint)), count, "quarantines all that is lent");
    }

    fn reclaim(&mut self, endpoint: u16) {
        for home in self.shard.reclaim(EndpointId(endpoint)) {
            let held = self.model.at(home.index.0).map(|(holder, _)| *holder);
            let Some(Holder::Quarantined(lent)) = held else { panic!("{home:?} was not quarantined") };
            assert_eq!((lent.endpoint, lent.kind == Kind::Packet), (endpoint, home.had_packet));
            self.model.come_home(home.index.0);
        }
        let is_left =
            |holder: &Holder| matches!(holder, Holder::Quarantined(lent) if lent.endpoint == endpoint);
        assert_eq!(self.model.count(is_left), 0, "reclaims all that is quarantined");
    }

    /// A descriptor from `giver`: a good one of its own, one of the past, or noise; some fields changed.
    fn descriptor(&mut self, giver: u16, input: &mut Input<'_>) -> RawDesc {
        let own: Vec<RawDesc> =
            self.model.loans(giver).map(|(index, generation, _)| good(index, generation).pack()).collect();
        let base = match input.below(4) {
            0 => input.pick(&self.old),
            1 => None,
            _ => input.pick(&own),
        };
        let Some(base) = base else { return RawDesc { word0: input.u64(), word1: input.u64() } };
        let (mut desc, changed) = (base.unpack(), input.u8());
        let is_changed = |bit: u8| changed >> bit & 1 == 1;
        if is_changed(0) {
            desc.data_len_bytes = input.u16();
        }
        if is_changed(1) {
            desc.data_offset_bytes = input.u16();
        }
        if is_changed(2) {
            desc.code = input.u8();
        }
        if is_changed(3) {
            desc.code = Verdict::Next as u8 + input.below(5);
        }
        if is_changed(4) {
            desc.aux = input.u32();
        }
        if is_changed(5) {
            desc.generation = desc.generation.wrapping_add(input.u16());
        }
        if is_changed(6) {
            desc.flags = input.u8();
        }
        if is_changed(7) {
            desc.buffer_index = desc.buffer_index.wrapping_add(input.u32());
        }
        desc.pack()
    }

    fn take_back(&mut self, giver: u16, raw: RawDesc) {
        let desc = raw.unpack();
        let ended = self.model.ends(giver, &desc);
        match self.shard.take_back(EndpointId(giver), raw, &LIMITS) {
            Ok(returned) => {
                let Some(lent) = ended else { panic!("took {desc:?} from endpoint {giver}: {returned:?}") };
                assert_eq!(returned.index.0, desc.buffer_index);
                assert_eq!((returned.data_offset_bytes, returned.data_len_bytes, returned.aux), parts(&desc));
                assert_eq!((returned.verdict as u8, returned.kind), (desc.code, lent.kind));
                assert_eq!(returned.path, lent.path, "the host's own note of the way, not the guest's");
                self.model.come_home(desc.buffer_index);
                self.touched = desc.buffer_index;
            }
            Err(fault) => assert_eq!(ended, None, "refused {desc:?} from endpoint {giver}: {fault}"),
        }
    }

    /// A burst of one endpoint, the first packet of which goes through the tables and the rest by equality.
    fn pass_on(&mut self, input: &mut Input<'_>) {
        let (from, to) = (endpoint(input), endpoint(input));
        let first = self.descriptor(from, input);
        if self.model.ends(from, &first.unpack()).is_none() {
            return self.take_back(from, first);
        }
        let Ok(returned) = self.shard.take_back(EndpointId(from), first, &LIMITS) else {
            panic!("refused {first:?}");
        };
        self.model.come_home(returned.index.0);
        let (hop, visited, mark, by_flow) =
            (input.below(4), input.below(2), input.u32(), input.below(2) == 0);
        let chain = if input.below(8) == 0 { ChainId(u16::MAX) } else { returned.path.chain };
        let next = PacketPath { chain, hop, visited, ..returned.path };
        let passage = Passage::of(EndpointId(from), &returned, EndpointId(to), next, mark, by_flow);
        let stays = returned.kind == Kind::Packet && chain == returned.path.chain;
        assert_eq!(passage.is_some(), stays, "packets are passed on within their chain");
        let Some(passage) = passage else { return };
        let given: [RawDesc; BURST] = std::array::from_fn(|_| self.descriptor(from, input));
        let mut descs = given;
        let mut passing = self.shard.passing(&passage, &LIMITS, self.sequence);
        let carried = descs.iter_mut().map_while(|desc| passing.carry(*desc).map(|lent_on| *desc = lent_on));
        let passed = carried.count();
        drop(passing);
        for (raw, lent_on) in given.iter().zip(&descs).take(passed) {
            let (desc, onwards) = (raw.unpack(), lent_on.unpack());
            let Some(lent) = self.model.ends(from, &desc) else { panic!("passed on {desc:?} of {from}") };
            let flow_hash = if by_flow { returned.path.flow_hash } else { lent.path.flow_hash };
            assert_eq!((lent.kind, lent.path), (Kind::Packet, PacketPath { flow_hash, ..returned.path }));
            assert_eq!((desc.code, desc.aux), (returned.verdict as u8, returned.aux));
            self.model.come_home(desc.buffer_index);
            self.set(
                desc.buffer_index,
                Holder::Endpoint(Lent {
                    endpoint: to,
                    path: PacketPath { hop, visited, ..lent.path },
                    ..lent
                }),
            );
            let generation = self.model.at(desc.buffer_index).map(|(_, generation)| *generation);
            assert_eq!(lent_on.word0, raw.word0, "the data stays where it is");
            assert_eq!(Some(onwards.generation), generation);
            assert_eq!((onwards.code, onwards.flags, onwards.aux), (Kind::Packet as u8, 0, mark));
            self.sequence = self.sequence.wrapping_add(1);
        }
        assert_eq!(descs[passed..], given[passed..], "what is not passed on stays as it was");
        if let Some(raw) = given.get(passed) {
            self.take_back(from, *raw);
        }
    }

    /// Mostly an index of the shard, and that of the step before.
    fn index(&mut self, input: &mut Input<'_>) -> u32 {
        self.touched = match input.u8() {
            0..128 => self.touched,
            255 => input.u32(),
            near => FIRST - 1 + u32::from(near) % (u32::try_from(SIZE).unwrap_or(0) + 2),
        };
        self.touched
    }

    fn compare(&mut self) {
        let audit = self.shard.audit();
        let pmd = self.model.count(|holder| *holder == Holder::Pmd);
        let lcore = self.model.count(|holder| *holder == Holder::Lcore);
        let references = self.model.observers.iter().map(|count| u64::from(*count)).sum();
        let in_hand = InHand { lcore, pmd: Some(pmd), references: Some(references) };
        assert_eq!(audit.findings(in_hand), [], "{:?}", self.model);
        assert_eq!(audit.pinned, self.model.count(|holder| *holder == Holder::Pinned));
        assert_eq!(audit.pool, self.model.count(|holder| *holder == Holder::Pool));
        for endpoint in 0..ENDPOINTS {
            assert_eq!(self.shard.held_by(EndpointId(endpoint)), self.model.held_by(endpoint));
        }
    }
}

fn endpoint(input: &mut Input<'_>) -> u16 {
    u16::from(input.below(3)) % ENDPOINTS
}

fn path(chain: u8, hop: u8) -> PacketPath {
    PacketPath { chain: ChainId(chain.into()), hop, visited: 0, ingress_port: PortId(0), flow_hash: 0 }
}

/// What an honest endpoint gives back.
fn good(index: u32, generation: u16) -> Desc {
    Desc {
        buffer_index: index,
        data_offset_bytes: 128,
        data_len_bytes: 60,
        generation,
        code: Verdict::Next as u8,
        flags: 0,
        aux: 0,
    }
}

fn parts(desc: &Desc) -> (u16, u16, u32) {
    (desc.data_offset_bytes, desc.data_len_bytes, desc.aux)
}
