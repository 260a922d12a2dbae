//! Random rings, served by a lane and read by the `virtio-queue` crate: both must agree on which chains can be
//! followed, and on every byte. Used by a property test and by a fuzz target.

use vhost_port::features::Features;
use vhost_port::frame::{Frame, Received, Room, Segment};
use vhost_port::test_guest::{
    BUFFERS_AT, INDIRECT, NEXT, REGION_BYTES, RINGS_AT, TestDescriptor, TestGuest, TestGuestShape, WRITE,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

const HEADER_BYTES: usize = 12;
const FRAME_BYTES_MIN: usize = 14;
const ROOM_BYTES: usize = 2048;
/// [`REGION_BYTES`], as lengths are counted here.
const REGION_LEN: usize = 1 << 20;
/// Where tables outside the rings are, one on each page: no buffer is there, so nothing writes them.
const TABLES_AT: u64 = RINGS_AT + 0x8_0000;
const TABLES: u8 = 4;

/// Numbers from bytes; behind the end all are zero.
struct Input<'d>(&'d [u8]);

impl Input<'_> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn below(&mut self, bound: u16) -> u16 {
        let wide = if bound > 256 { self.u16() } else { self.u8().into() };
        wide % bound.max(1)
    }

    fn rarely(&mut self) -> bool {
        self.u8() >= 240
    }
}

/// One ring and what is to be done with it.
struct Scene {
    guest: TestGuest,
    size: u16,
    features: Features,
    first_index: u16,
    /// Whether the device writes: the receive queue.
    to_guest: bool,
    offered: u16,
}

/// Builds a ring of these bytes, lets a lane serve it, and compares.
///
/// # Panics
/// If the two do not agree.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut scene = Scene::build(&mut input);
    let memory = scene.oracle_memory();
    let chains = scene.read_by_oracle(&memory);
    if scene.to_guest { scene.check_receive(&mut input, &chains) } else { scene.check_transmit(&chains) }
}

/// The segments of each waiting chain in order, up to the first that cannot be followed; and whether there is
/// such a one.
struct Waiting {
    chains: Vec<(u16, Vec<(u64, usize)>)>,
    is_refused: bool,
}

impl Scene {
    fn build(input: &mut Input<'_>) -> Self {
        let to_guest = input.u8() & 1 == 1;
        let size = 1 << input.below(if to_guest { 5 } else { 7 });
        let mut features = Features::VERSION_1;
        for (bit, feature) in [(1, Features::MERGEABLE), (2, Features::INDIRECT), (4, Features::EVENT_INDEX)]
        {
            if input.u8() & bit != 0 {
                features = features | feature;
            }
        }
        let first_index = input.u16();
        let shape = TestGuestShape { size, features, pairs: 1, first_index };
        let guest = TestGuest::new(shape);
        let mut scene = Self { guest, size, features, first_index, to_guest, offered: 0 };
        scene.write_tables(input);
        scene.offer_chains(input);
        scene
    }

    fn queue(&self) -> usize {
        usize::from(!self.to_guest)
    }

    fn write_tables(&mut self, input: &mut Input<'_>) {
        for number in 0..self.size {
            let desc = self.descriptor(input, self.size);
            self.guest.describe(self.queue(), number, desc);
        }
        if self.features.contains(Features::INDIRECT) {
            for table in 0..TABLES {
                for number in 0..self.size {
                    let desc = self.descriptor(input, self.size);
                    self.guest.write(table_at(table) + 16 * u64::from(number), &desc.bytes());
                }
            }
        }
        if !self.to_guest {
            // Mostly headers that ask for nothing.
            let pattern: Vec<u8> = (0..REGION_BYTES).map(pattern).collect();
            self.guest.write(BUFFERS_AT, &pattern);
        }
    }

    /// A descriptor that is right more often than not.
    fn descriptor(&self, input: &mut Input<'_>, count: u16) -> TestDescriptor {
        let right = if self.to_guest { WRITE } else { 0 };
        let mut flags = if input.rarely() { right ^ WRITE } else { right };
        if self.features.contains(Features::INDIRECT) && input.u8() >= 200 {
            let table = table_at(input.u8() % TABLES);
            let len_bytes = 16 * u32::from(input.below(self.size + 1)) + u32::from(input.rarely());
            return TestDescriptor { address: table, len_bytes, flags: flags | INDIRECT, next: 0 };
        }
        if input.u8() >= 128 {
            flags |= NEXT;
        }
        let next = if input.rarely() { input.u16() } else { input.below(count) };
        let address = match input.u8() {
            0..240 => BUFFERS_AT + 64 * u64::from(input.below(0x3fe0)),
            240..248 => BUFFERS_AT + REGION_BYTES - u64::from(input.u8()),
            248..254 => u64::from(input.u16()) << 48 | u64::from(input.u16()),
            _ => BUFFERS_AT - u64::from(input.u8()),
        };
        let len_bytes = match input.u8() {
            0..100 => input.u8().into(),
            100..200 => u32::from(input.u16()) % 2100,
            200..220 => 0,
            220..250 => u32::from(input.u8()) % 16,
            _ => u32::from(input.u16()) << 16 | u32::from(input.u16()),
        };
        TestDescriptor { address, len_bytes, flags, next }
    }

    fn offer_chains(&mut self, input: &mut Input<'_>) {
        self.offered = input.below(self.size + 1);
        for _ in 0..self.offered {
            let head = if input.rarely() { input.u16() } else { input.below(self.size) };
            self.guest.offer(self.queue(), head);
        }
        if input.rarely() {
            self.guest.set_avail_index(self.queue(), input.u16());
        }
    }

    fn oracle_memory(&self) -> GuestMemoryMmap {
        let part = |start: u64, offset: u64| {
            let file = self.guest.file().try_clone().expect("a descriptor");
            (GuestAddress(start), REGION_LEN, Some(FileOffset::new(file, offset)))
        };
        let parts = [part(RINGS_AT, REGION_BYTES), part(BUFFERS_AT, 0)];
        GuestMemoryMmap::from_ranges_with_files(parts).expect("two mappings of a memfd")
    }

    fn read_by_oracle(&self, memory: &GuestMemoryMmap) -> Waiting {
        let (descriptors, available, used) = TestGuest::ring_addresses(self.queue());
        let mut queue = Queue::new(self.size).expect("a power of two");
        queue.set_size(self.size);
        queue.try_set_desc_table_address(GuestAddress(descriptors)).expect("an aligned address");
        queue.try_set_avail_ring_address(GuestAddress(available)).expect("an aligned address");
        queue.try_set_used_ring_address(GuestAddress(used)).expect("an aligned address");
        queue.set_next_avail(self.first_index);
        queue.set_ready(true);
        let mut waiting = Waiting { chains: Vec::new(), is_refused: false };
        let Ok(chains) = queue.iter(memory) else {
            waiting.is_refused = true;
            return waiting;
        };
        for chain in chains {
            let head = chain.head_index();
            let pieces: Vec<_> = chain.collect();
            let right = |piece: &virtio_queue::desc::split::Descriptor| {
                let is_inside = piece.len() == 0
                    || memory.check_range(piece.addr(), piece.len() as usize, Permissions::ReadWrite);
                is_inside && piece.is_write_only() == self.to_guest
            };
            // The oracle ends where it cannot go on, and says no more.
            let is_whole = pieces.last().is_some_and(|last| !last.has_next());
            if !is_whole || pieces.len() > self.size.into() || !pieces.iter().all(right) {
                waiting.is_refused = true;
                break;
            }
            let segments = pieces.iter().map(|piece| (piece.addr().0, piece.len() as usize));
            waiting.chains.push((head, segments.filter(|segment| segment.1 > 0).collect()));
        }
        waiting
    }

    fn check_transmit(&mut self, waiting: &Waiting) {
        let mut expected = Vec::new();
        for (_, segments) in &waiting.chains {
            let parts = segments.iter().map(|&(at, len)| self.guest.read(at, len));
            let bytes: Vec<u8> = parts.flatten().collect();
            let Some((header, frame)) = bytes.split_at_checked(HEADER_BYTES) else { continue };
            // Neither checksums nor long packets are in force.
            let asks = header[0] & 1 != 0 || header[1] != 0;
            if !asks && (FRAME_BYTES_MIN..=ROOM_BYTES).contains(&frame.len()) {
                expected.push(frame.to_vec());
            }
        }
        assert_eq!(self.take_all(), expected);
        let heads = waiting.chains.iter().map(|(head, _)| (u32::from(*head), 0));
        self.check_used(heads.collect(), waiting.is_refused);
    }

    /// All frames, in as many bursts as it takes.
    fn take_all(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let before = self.guest.used_count(1);
            let mut memory = vec![0; 32 * ROOM_BYTES];
            let mut rooms: Vec<_> = memory.chunks_exact_mut(ROOM_BYTES).map(Room::of).collect();
            let mut received = [Received::default(); 32];
            let count = self.guest.lane.dequeue(&mut rooms, &mut received);
            for (room, frame) in memory.chunks_exact(ROOM_BYTES).zip(&received[..count]) {
                frames.push(room[..frame.len_bytes as usize].to_vec());
            }
            if self.guest.used_count(1) == before {
                return frames;
            }
        }
    }

    fn check_receive(&mut self, input: &mut Input<'_>, waiting: &Waiting) {
        let frames: Vec<Vec<u8>> = (0..input.below(24))
            .map(|seed| {
                let len = if input.rarely() { input.u8().into() } else { input.u16() % 3000 };
                (0..len).map(|at| (at ^ seed).to_le_bytes()[0] | 1).collect()
            })
            .collect();
        let mut model = Model { memory: vec![0; REGION_LEN], used: Vec::new(), is_broken: false };
        let merges = self.features.contains(Features::MERGEABLE);
        let delivered = frames.iter().filter(|frame| model.deliver(frame, waiting, merges)).count();
        let asked: Vec<_> = frames.iter().map(|frame| Frame::whole(Segment::of(frame), 0)).collect();
        assert_eq!(self.guest.lane.enqueue(&asked), delivered);
        let memory = self.guest.read(BUFFERS_AT, REGION_LEN);
        assert!(memory == model.memory, "the buffers differ");
        self.check_used(model.used, model.is_broken);
    }

    fn check_used(&self, expected: Vec<(u32, u32)>, is_broken: bool) {
        let queue = self.queue();
        let used: Vec<_> = (0..self.guest.used_count(queue)).map(|at| self.guest.used(queue, at)).collect();
        assert_eq!(used, expected);
        assert_eq!(self.guest.publisher().report(queue).broken() != 0, is_broken);
    }
}

/// A receive queue filled byte by byte.
struct Model {
    memory: Vec<u8>,
    used: Vec<(u32, u32)>,
    is_broken: bool,
}

impl Model {
    fn deliver(&mut self, frame: &[u8], waiting: &Waiting, merges: bool) -> bool {
        if self.is_broken || frame.len() < FRAME_BYTES_MIN {
            return false;
        }
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(frame);
        let first = self.used.len();
        let (mut count, mut room) = (0, 0);
        while room < bytes.len() {
            let Some((_, segments)) = waiting.chains.get(first + count) else {
                self.is_broken = waiting.is_refused;
                return false;
            };
            let len: usize = segments.iter().map(|segment| segment.1).sum();
            if len < HEADER_BYTES {
                self.is_broken = true;
                return false;
            }
            room += len;
            count += 1;
            if room < bytes.len() && !merges {
                return false;
            }
        }
        bytes[10] = u8::try_from(count).expect("at most 16 chains");
        let mut rest = bytes.iter();
        for (head, segments) in &waiting.chains[first..first + count] {
            let mut written = 0;
            for at in segments.iter().flat_map(|&(at, len)| at..at + len as u64) {
                let Some(byte) = rest.next() else { break };
                self.memory[place_of(at)] = *byte;
                written += 1;
            }
            self.used.push((u32::from(*head), written));
        }
        true
    }
}

/// Where the byte at a guest address is in the region of buffers.
fn place_of(address: u64) -> usize {
    usize::try_from(address - BUFFERS_AT).expect("an address that was translated")
}

fn table_at(table: u8) -> u64 {
    TABLES_AT + 0x1000 * u64::from(table)
}

/// Byte of a transmit buffer: now and then one that asks for something, if a header begins with it.
fn pattern(at: u64) -> u8 {
    match at % 64 {
        0 => u8::from(at.is_multiple_of(1024)),
        1..12 => 0,
        place => ((at / 64) ^ place).to_le_bytes()[0],
    }
}
