//! A control area of arbitrary bytes, opened as a guest opens it.
//!
//! Half of a guest's word about a host that it has no reason to trust: what is opened lies inside the mapping,
//! each part apart from every other, and can be used without a fault.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use shm_ring::area::{
    AreaLayout, AreaSpec, EndpointSpec, GuestArea, HostArea, RegionGeometry, TargetKind, TargetSpec,
    read_region_header,
};
use shm_ring::desc::RawDesc;
use shm_ring::layout::{CounterLine, PAGE_BYTES, STRIDE_BYTES_DEFAULT, Slot};
use shm_ring::reference::ReferenceTable;
use shm_ring::ring::{Consumer, Producer, RingMemory};

use crate::Input;

const PAGE_WORDS: usize = PAGE_BYTES / 8;
/// Where tables and the first rings lie; what is behind is ring memory, any value of which is legal.
const TABLE_WORDS: u16 = 128;

/// Memory as a mapping has it: whole pages of words that anybody may write at any moment.
#[repr(C, align(4096))]
struct Page([AtomicU64; PAGE_WORDS]);

/// Writes a control area as the host does, changes some words of it, and opens it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let layout = layout(&mut input);
    let bytes = usize::try_from(layout.bytes()).unwrap_or(usize::MAX);
    let pages: Vec<Page> =
        (0..bytes / PAGE_BYTES).map(|_| Page([const { AtomicU64::new(0) }; PAGE_WORDS])).collect();
    let base = NonNull::from(&pages[0]).cast::<u8>();
    if input.below(8) != 0 {
        // SAFETY: `pages` are `bytes` long, aligned to a page and outlive the area; only this thread writes.
        let created = unsafe { HostArea::create(base, bytes, &layout) };
        assert!(created.is_ok(), "{created:?}");
    }
    let mapped_bytes = if input.below(8) == 0 { usize::from(input.u16()) % (bytes + 1) } else { bytes };
    let word = |at: usize| &pages[at / PAGE_WORDS].0[at % PAGE_WORDS];
    for _ in 0..16 {
        if input.is_empty() {
            break;
        }
        let at = word(usize::from(input.u16() % TABLE_WORDS));
        let shift = u32::from(input.below(8)) * 8;
        match input.below(4) {
            0 => at.store(input.u64(), Relaxed),
            1 => at.store(at.load(Relaxed).wrapping_add(u64::from(input.u8()) << shift), Relaxed),
            2 => at.store(at.load(Relaxed).wrapping_sub(u64::from(input.u8()) << shift), Relaxed),
            _ => at.store(at.load(Relaxed) ^ u64::from(input.u8()) << shift, Relaxed),
        }
    }
    // SAFETY: as above, and `mapped_bytes` are no more than the pages have.
    match unsafe { GuestArea::open(base, mapped_bytes) } {
        Ok(area) => {
            // SAFETY: as above. It is no region, and has to be refused as one.
            let read = unsafe { read_region_header(base, mapped_bytes, area.region()) };
            assert!(read.is_err(), "a control area is taken for a region");
            use_area(&area, base.addr().get()..base.addr().get() + mapped_bytes);
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error}"),
    }
}

fn layout(input: &mut Input<'_>) -> AreaLayout {
    let endpoint = |endpoint_id: u16, lcores: u16, quota_buffers| EndpointSpec {
        endpoint_id,
        service_id: 1,
        service_name: "fw".to_owned(),
        quota_buffers,
        credit_buffers: 0,
        references: u32::from(endpoint_id) * 5,
        ring_slots: 8,
        lcores: (0..lcores).collect(),
    };
    let Ok(region) = RegionGeometry::fit(2 << 20, STRIDE_BYTES_DEFAULT, input.u64()) else {
        unreachable!("2 MiB are a region")
    };
    let spec = AreaSpec {
        region,
        access: u16::from(input.below(2)),
        features_offered: input.u64(),
        endpoints: (0..=input.below(2)).map(|at| endpoint(at.into(), 1 + u16::from(at), 16)).collect(),
        targets: vec![TargetSpec { kind: TargetKind::Port, id: 0, name: "left".to_owned() }],
    };
    AreaLayout::plan(&spec).unwrap_or_else(|error| panic!("{error}"))
}

/// Every word can be looked at, and none behind the last.
fn use_references(references: ReferenceTable<'_>) {
    let count = u16::try_from(references.count()).unwrap_or(u16::MAX);
    let good = (0..count).filter(|&slot| references.holds(slot, 0)).count();
    assert!(good <= references.count() && !references.holds(count, 0));
}

/// Uses everything that was opened: no part overlaps another or leaves the mapping.
fn use_area(area: &GuestArea<'_>, mapping: Range<usize>) {
    assert!(area.targets().all(|target| !target.name.is_empty()));
    let region = area.region();
    if let Some(last) = region.buffer_count.checked_sub(1) {
        let end = region.buffer_offset(last) + u64::from(region.buffer_stride_bytes);
        assert!(end <= region.region_bytes, "buffer {last} ends at {end}");
    }
    let mut parts: Vec<Range<usize>> = Vec::new();
    for position in 0..area.endpoint_count() {
        let endpoint = area.endpoint(position);
        assert!(!endpoint.service_name().is_empty());
        assert_eq!(area.lcores(position).count(), endpoint.queue_pairs().len());
        for pair in endpoint.queue_pairs() {
            parts.extend(parts_of(pair.host_to_guest));
            parts.extend(parts_of(pair.guest_to_host));
            use_references(pair.references);
            use_rings(pair.host_to_guest, pair.guest_to_host);
        }
        endpoint.ask(endpoint.ask_with(1));
        endpoint.confirm(1);
        endpoint.beat();
    }
    parts.sort_unstable_by_key(|part| part.start);
    assert!(parts.iter().all(|part| mapping.start <= part.start && part.end <= mapping.end));
    assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start), "{parts:x?}");
}

fn parts_of(ring: RingMemory<'_>) -> [Range<usize>; 2] {
    let line = |line: &CounterLine| {
        let start = std::ptr::from_ref(line).addr();
        start..start + size_of::<CounterLine>()
    };
    [line(ring.produced_line()), line(ring.consumed_line())]
}

fn use_rings(from_host: RingMemory<'_>, to_host: RingMemory<'_>) {
    assert!(size_of::<Slot>() == size_of::<RawDesc>());
    let mut burst = [RawDesc::default(); 8];
    let mut consumer = Consumer::new(from_host);
    // Whatever stands in the counters: an error that says so, or at most what the ring holds.
    if let Ok(taken) = consumer.take(&mut burst) {
        assert!(taken <= burst.len());
        consumer.release();
    }
    let producer = Producer::new(to_host, None);
    if let Ok(room) = producer.room(1) {
        assert!(room <= to_host.slot_count());
        let staged = burst.iter().take_while(|desc| producer.stage(**desc)).count();
        assert_eq!(staged, burst.len().min(room as usize));
        producer.publish();
    }
}
