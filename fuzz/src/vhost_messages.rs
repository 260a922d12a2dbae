//! Messages of a vhost-user frontend, whole and in pieces, with descriptors of every kind.
//!
//! What a message asks for is often nearly right: a session that refuses everything proves little. Whatever was
//! done is reckoned again here, in 128 bits: regions apart from each other and inside their files, running rings
//! inside regions with their full length, features among those on offer. A lane works on each setup.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost_port::features::{Features, Offer};
use vhost_port::frame::{Frame, Received, Room, Segment};
use vhost_port::lane::Lane;
use vhost_port::memory::MemoryLimits;
use vhost_port::memory_watch::{MemoryWatch, MemoryWatcher};
use vhost_port::notifier::Notifier;
use vhost_port::rehearsal::{Heard, Rehearsal, rehearse};
use vhost_port::terms::Terms;

use crate::Input;

const RAM_BYTES: u64 = 64 << 10;
const REGIONS_MAX: usize = 4;
const ENTRIES_MAX: u16 = 64;
const STEPS_MAX: usize = 40;
const QUEUES: usize = 4;

const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_PROTOCOL_FEATURES: u32 = 16;
const RESET_DEVICE: u32 = 34;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;
/// What a network device is asked, and some things that it is not.
const REQUESTS: &[u32] = &[
    1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 31, 32, 34, 36, 37, 38, 9, 8, 12, 5, 37, 6,
    24,
];

/// Memory that nobody takes away.
#[derive(Debug)]
struct Calm;

impl MemoryWatch for Calm {
    fn is_lost(&self) -> bool {
        false
    }
}

impl MemoryWatcher for Calm {
    unsafe fn watch(
        &self,
        _base: NonNull<u8>,
        _bytes: usize,
        _page_bytes: usize,
    ) -> Result<Box<dyn MemoryWatch>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(Self))
    }
}

/// What all runs share.
struct Stage {
    terms: Terms,
    ram: [File; 2],
    unsealed: File,
    counter: OwnedFd,
}

fn memfd(seals: SealFlags) -> std::io::Result<File> {
    let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(RAM_BYTES)?;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn stage() -> std::io::Result<Stage> {
    let terms = Terms {
        name: "fuzz".to_owned(),
        queue_pairs: 2,
        ring_entries: ENTRIES_MAX,
        mtu_bytes: 1500,
        offer: Offer { checksums: true, segmentation: false, multiqueue: true, withheld: Features::NONE },
        memory: MemoryLimits { regions: REGIONS_MAX, bytes: 3 * RAM_BYTES, accept_unsealed: false },
        notifier: Arc::new(Notifier::start()?),
        watcher: Arc::new(Calm),
    };
    let ram = [memfd(SealFlags::SHRINK)?, memfd(SealFlags::SHRINK)?];
    Ok(Stage {
        terms,
        ram,
        unsealed: memfd(SealFlags::empty())?,
        counter: eventfd(0, EventfdFlags::NONBLOCK)?,
    })
}

/// Guest address, length, frontend's address, offset in the file.
type Region = [u64; 4];

/// The second reckoning: what was said and done.
#[derive(Default)]
struct Model {
    regions: Vec<Region>,
    sizes: [u64; QUEUES],
    /// Descriptors, used ring, available ring.
    rings: [[u64; 3]; QUEUES],
}

/// A message in the making, with what it says if it is done.
struct Said {
    request: u32,
    body: Vec<u8>,
    regions: Vec<Region>,
}

/// Plays a session.
pub fn run(data: &[u8]) {
    static STAGE: OnceLock<Option<Stage>> = OnceLock::new();
    let Some(stage) = STAGE.get_or_init(|| stage().ok()) else { panic!("no memory or no notifier") };
    let Ok((ours, theirs)) = UnixStream::pair() else { panic!("no sockets") };
    rehearse(&stage.terms, theirs, |session, lane| {
        let mut input = Input::new(data);
        let mut model = Model::default();
        if input.below(4) != 0 {
            tell(
                stage,
                &ours,
                SET_PROTOCOL_FEATURES,
                &words(&[1 | 8 | 1 << 4 | 1 << 12 | 1 << 13 | 1 << 15]),
                0,
            );
            assert!(matches!(session.hear(), Heard::Done(None)));
        }
        for _ in 0..STEPS_MAX {
            if input.is_empty() || !step(stage, &mut input, &ours, session, lane, &mut model) {
                break;
            }
        }
    });
}

/// One message, or the last bytes as they are. Whether the session goes on.
fn step(
    stage: &Stage,
    input: &mut Input<'_>,
    socket: &UnixStream,
    session: &mut Rehearsal<'_>,
    lane: &mut Lane,
    model: &mut Model,
) -> bool {
    let how = input.u8();
    if how == 0xff {
        let rest = input.take_rest();
        _ = sendmsg(socket, &[IoSlice::new(rest)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
        while let Heard::Done(_) = session.hear() {}
        return false;
    }
    let Some(said) = say(input, model) else { return false };
    tell(stage, socket, said.request, &said.body, how);
    match session.hear() {
        Heard::Done(_) => model.note(&said),
        Heard::Nothing | Heard::End => panic!("{} went unheard", said.request),
        Heard::Refused(refusal) => {
            assert!(!refusal.to_string().chars().any(char::is_control), "{refusal}");
            return false;
        }
    }
    model.check(session);
    work(lane);
    true
}

/// A number that is mostly right.
fn near(input: &mut Input<'_>, right: u64) -> u64 {
    match input.below(8) {
        0 => input.u64(),
        1 => right.wrapping_add(u64::from(input.u8())).wrapping_sub(128),
        2 => right.wrapping_add(u64::from(input.u16()) << 4),
        _ => right,
    }
}

fn region(input: &mut Input<'_>) -> Region {
    let at = u64::from(input.below(4));
    let len_bytes = near(input, RAM_BYTES);
    [near(input, at * RAM_BYTES), len_bytes, near(input, (at + 16) * RAM_BYTES), near(input, 0)]
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn state(queue: u32, value: u32) -> Vec<u8> {
    [queue, value].map(u32::to_le_bytes).concat()
}

fn say(input: &mut Input<'_>, model: &Model) -> Option<Said> {
    let request = input.pick(REQUESTS)?;
    let queue = u32::from(input.below(5));
    let mut regions = Vec::new();
    let mut body = match request {
        SET_FEATURES => words(&[1 << 32 | 1 << 30 | near(input, 0)]),
        SET_MEM_TABLE => {
            regions = (0..input.below(4)).map(|_| region(input)).collect();
            let count = words(&[regions.len() as u64]);
            count.into_iter().chain(regions.iter().flat_map(|region| words(region))).collect()
        }
        ADD_MEM_REG | REM_MEM_REG => {
            regions.push(region(input));
            [words(&[0]), words(&regions[0])].concat()
        }
        SET_VRING_NUM => state(queue, u32::try_from(near(input, 64)).unwrap_or(u32::MAX)),
        SET_VRING_ADDR => {
            let base = model.regions.first().map_or(16 * RAM_BYTES, |region| region[2]);
            let at = |input: &mut Input<'_>| {
                let offset = u64::from(input.u16() & 0xfff0);
                base.wrapping_add(near(input, offset))
            };
            let [descriptors, used, available] = [at(input), at(input), at(input)];
            [state(queue, 0), words(&[descriptors, used, available, 0])].concat()
        }
        10 | 11 | 18 => state(queue, u32::from(input.below(3))),
        12..=14 => words(&[near(input, u64::from(queue))]),
        SET_PROTOCOL_FEATURES => words(&[near(input, 0xb019)]),
        20 => words(&[near(input, 1500)]),
        31 | 32 => words(&[near(input, 4096), near(input, 0), near(input, 4 | 64 << 16)]),
        1 | 3 | 4 | 15 | 17 | RESET_DEVICE | 36 => Vec::new(),
        _ => input.take(8).to_vec(),
    };
    if input.below(32) == 0 {
        body.truncate(usize::from(input.u8()));
    }
    Some(Said { request, body, regions })
}

/// Sends a message with the descriptors that belong to it, or with others.
fn tell(stage: &Stage, socket: &UnixStream, request: u32, body: &[u8], how: u8) {
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = [request, 1, size].map(u32::to_le_bytes).concat();
    bytes.extend_from_slice(body);
    let ram = stage.ram[usize::from(how & 1)].as_fd();
    let right: Vec<BorrowedFd<'_>> = match request {
        SET_MEM_TABLE => vec![ram; body.len().saturating_sub(8) / 32],
        32 | ADD_MEM_REG => vec![ram],
        12..=14 if body.get(1) == Some(&0) => vec![stage.counter.as_fd()],
        _ => Vec::new(),
    };
    let fds = match how >> 1 & 0x1f {
        0 => vec![stage.unsealed.as_fd(); right.len()],
        1 => vec![stage.counter.as_fd(); right.len()],
        2 => vec![ram; 40],
        3 => Vec::new(),
        _ => right,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

/// A lane looks at what was published, works on it, and lets go.
fn work(lane: &mut Lane) {
    lane.adopt();
    let mut bytes = [[0; 2048]; 8];
    let mut received = [Received::default(); 8];
    let mut rooms = bytes.each_mut().map(|bytes| Room::of(bytes));
    let count = lane.dequeue(&mut rooms, &mut received);
    assert!(count <= received.len());
    lane.enqueue(&[Frame::whole(Segment::of(&[7; 60]), 0)]);
    lane.park();
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let from = bytes.get(at..).unwrap_or_default();
    let count = from.len().min(8);
    word[..count].copy_from_slice(&from[..count]);
    u64::from_le_bytes(word)
}

impl Model {
    /// What a message that was done means.
    fn note(&mut self, said: &Said) {
        let words = number(&said.body, 0);
        let (queue, value) = (usize::try_from(words & 0xffff_ffff).unwrap_or(usize::MAX), words >> 32);
        match said.request {
            SET_MEM_TABLE => {
                self.regions.clear();
                self.add(&said.regions);
            }
            ADD_MEM_REG => self.add(&said.regions),
            REM_MEM_REG => {
                self.regions.retain(|known| said.regions.iter().all(|gone| known[..3] != gone[..3]))
            }
            SET_VRING_NUM => self.sizes[queue] = value,
            SET_VRING_ADDR => self.rings[queue] = [8, 16, 24].map(|at| number(&said.body, at)),
            _ => {}
        }
    }

    /// The same region once more changes nothing.
    fn add(&mut self, regions: &[Region]) {
        for region in regions {
            if !self.regions.contains(region) {
                self.regions.push(*region);
            }
        }
    }

    fn check(&self, session: &Rehearsal<'_>) {
        let (count, bytes) = session.memory();
        assert!(count <= REGIONS_MAX && bytes <= 3 * RAM_BYTES, "{count} regions of {bytes} bytes");
        for (at, one) in self.regions.iter().enumerate() {
            assert!(
                u128::from(one[3]) + u128::from(one[1]) <= u128::from(RAM_BYTES),
                "outside its file: {one:x?}"
            );
            for other in &self.regions[..at] {
                assert!(is_apart(one, other, 0) && is_apart(one, other, 2), "overlap: {one:x?} {other:x?}");
            }
        }
        for (number, queue) in session.queues().iter().enumerate().filter(|(_, queue)| queue.is_running) {
            assert_eq!(u64::from(queue.size), self.sizes[number]);
            assert!(queue.size.is_power_of_two() && queue.size <= ENTRIES_MAX, "{queue:?}");
            let size = u64::from(queue.size);
            for (start, len_bytes) in
                self.rings[number].into_iter().zip([16 * size, 6 + 8 * size, 6 + 2 * size])
            {
                let end = u128::from(start) + u128::from(len_bytes);
                let holds = |region: &Region| {
                    region[2] <= start && end <= u128::from(region[2]) + u128::from(region[1])
                };
                assert!(self.regions.iter().any(holds), "ring at {start:#x} is not in a region");
            }
        }
    }
}

fn is_apart(one: &Region, other: &Region, start: usize) -> bool {
    let end = |region: &Region| u128::from(region[start]) + u128::from(region[1]);
    end(one) <= u128::from(other[start]) || end(other) <= u128::from(one[start])
}
