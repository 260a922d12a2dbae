//! The checks that a descriptor from an endpoint must pass, against the ledger's entry of the buffer it names.
//!
//! [`crate::shard::Shard::take_back`] is the only caller: it has found the entry by the index, masked after its
//! own check. What is checked here is the one private copy of the descriptor.

use shm_ring::desc::{Desc, FLAGS_KNOWN, Kind, Verdict};

use crate::fault::DescFault;
use crate::frame::FrameLimits;
use crate::ids::EndpointId;
use crate::ledger::LedgerEntry;
use crate::transition::HolderState;

/// As what the buffer was lent, and the verdict on it; the first check that fails otherwise.
#[inline(always)]
pub(crate) fn check(
    entry: &LedgerEntry,
    endpoint: EndpointId,
    desc: &Desc,
    limits: &FrameLimits,
) -> Result<(Kind, Verdict), DescFault> {
    check_holder(entry, endpoint, desc)?;
    let (kind, verdict) = check_meaning(entry, desc)?;
    check_data(desc, verdict, limits)?;
    Ok((kind, verdict))
}

/// Whether `endpoint` holds the buffer by this very loan.
#[inline(always)]
fn check_holder(entry: &LedgerEntry, endpoint: EndpointId, desc: &Desc) -> Result<(), DescFault> {
    let index = desc.buffer_index;
    if entry.state != HolderState::Endpoint as u8 {
        return Err(DescFault::NotHeld { index, state: entry.state });
    }
    if !cfg!(feature = "sabotage-holder") && entry.endpoint != endpoint.0 {
        return Err(DescFault::OtherHolder { index, holder: EndpointId(entry.endpoint) });
    }
    if !cfg!(feature = "sabotage-generation") && entry.generation != desc.generation {
        return Err(DescFault::WrongGeneration { index, given: desc.generation, current: entry.generation });
    }
    Ok(())
}

/// Whether code and flags are known, and the verdict fits what was lent.
#[inline(always)]
fn check_meaning(entry: &LedgerEntry, desc: &Desc) -> Result<(Kind, Verdict), DescFault> {
    let Some(verdict) = Verdict::from_code(desc.code) else {
        return Err(DescFault::UnknownCode { code: desc.code });
    };
    if desc.flags & !FLAGS_KNOWN != 0 {
        return Err(DescFault::UnknownFlags { flags: desc.flags });
    }
    let kind = if entry.kind == Kind::Empty as u8 { Kind::Empty } else { Kind::Packet };
    if matches!((kind, verdict), (Kind::Packet, Verdict::ReturnEmpty)) {
        return Err(DescFault::NotEmpty { index: desc.buffer_index });
    }
    Ok((kind, verdict))
}

/// Whether the data lies in the buffer and, if it goes on, is a frame.
#[inline(always)]
fn check_data(desc: &Desc, verdict: Verdict, limits: &FrameLimits) -> Result<(), DescFault> {
    let &Desc { data_offset_bytes, data_len_bytes, .. } = desc;
    // u32, because u16 + u16 can wrap to a small, "valid" end.
    let end_bytes = u32::from(data_offset_bytes) + u32::from(data_len_bytes);
    if !cfg!(feature = "sabotage-length") && end_bytes > limits.stride_bytes {
        let stride_bytes = limits.stride_bytes;
        return Err(DescFault::PastBuffer { data_offset_bytes, data_len_bytes, stride_bytes });
    }
    if matches!(verdict, Verdict::Drop | Verdict::ReturnEmpty) {
        return Ok(());
    }
    if data_len_bytes > limits.frame_bytes_max {
        let frame_bytes_max = limits.frame_bytes_max;
        return Err(DescFault::FrameTooLong { frame_bytes: data_len_bytes, frame_bytes_max });
    }
    if data_len_bytes < limits.frame_bytes_min {
        let frame_bytes_min = limits.frame_bytes_min;
        return Err(DescFault::FrameTooShort { frame_bytes: data_len_bytes, frame_bytes_min });
    }
    Ok(())
}
