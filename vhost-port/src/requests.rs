//! What each request of a frontend does.
//!
//! Source: the vhost-user specification (QEMU, `docs/interop/vhost-user.rst`). Two habits of QEMU 7.2 are met: it
//! enables queues before it sets features, and it repeats the same region for every queue pair.

use std::fs::File;
use std::os::fd::OwnedFd;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::{
    FrontendReq as Request, VhostUserInflight, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserSingleMemoryRegion, VhostUserU64, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::device::Device;
use crate::features::{Features, Negotiated};
use crate::inflight::{Inflight, InflightClaim};
use crate::memory::{GuestMemory, MemoryError, REGIONS_MAX, RegionClaim};
use crate::memory_file::MemoryFile;
use crate::notifier::Bell;
use crate::refusal::Refusal;
use crate::ring_claim::RingClaim;
use crate::terms::MTU_BYTES_MIN;
use crate::wire::Message;

/// The protocol features on offer.
pub(crate) const PROTOCOL_FEATURES: Protocol = Protocol::MQ
    .union(Protocol::REPLY_ACK)
    .union(Protocol::MTU)
    .union(Protocol::INFLIGHT_SHMFD)
    .union(Protocol::RESET_DEVICE)
    .union(Protocol::CONFIGURE_MEM_SLOTS);

/// Bit of a descriptor message's payload: no descriptor comes with it.
const NO_DESCRIPTOR: u64 = 0x100;

/// What a request is answered with.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

fn number(value: u64) -> Option<Answer> {
    Some(Answer { body: value.to_le_bytes().to_vec(), fd: None })
}

/// The body as this type, if it is exactly as long.
fn body<T: ByteValued + Default>(message: &Message) -> Result<T, Refusal> {
    let mut value = T::default();
    let bytes = value.as_mut_slice();
    if bytes.len() != message.body.len() {
        return Err(malformed(message));
    }
    bytes.copy_from_slice(&message.body);
    Ok(value)
}

fn empty(message: &Message) -> Result<(), Refusal> {
    if message.body.is_empty() { Ok(()) } else { Err(malformed(message)) }
}

fn malformed(message: &Message) -> Refusal {
    Refusal::Body { request: message.request, body_bytes: message.body.len() }
}

/// The only descriptor of a message.
fn one_fd(message: &mut Message) -> Result<File, Refusal> {
    match message.fds.pop() {
        Some(fd) if message.fds.is_empty() => Ok(fd.into()),
        popped => {
            let fds = message.fds.len() + usize::from(popped.is_some());
            Err(Refusal::Fds { request: message.request, fds, allowed: 1 })
        }
    }
}

/// The protocol feature that a request belongs to; none for those that always are.
fn feature_of(request: Request) -> Protocol {
    match request {
        Request::GET_QUEUE_NUM => Protocol::MQ,
        Request::NET_SET_MTU => Protocol::MTU,
        Request::RESET_DEVICE => Protocol::RESET_DEVICE,
        Request::GET_INFLIGHT_FD | Request::SET_INFLIGHT_FD => Protocol::INFLIGHT_SHMFD,
        Request::GET_MAX_MEM_SLOTS | Request::ADD_MEM_REG | Request::REM_MEM_REG => {
            Protocol::CONFIGURE_MEM_SLOTS
        }
        _ => Protocol::empty(),
    }
}

/// Most descriptors that may come with a request.
fn fds_max(request: Request) -> usize {
    match request {
        Request::SET_MEM_TABLE => REGIONS_MAX,
        Request::SET_VRING_CALL
        | Request::SET_VRING_KICK
        | Request::SET_VRING_ERR
        | Request::SET_INFLIGHT_FD
        | Request::ADD_MEM_REG
        // "For compatibility with existing incorrect implementations"; closed without being used.
        | Request::REM_MEM_REG => 1,
        _ => 0,
    }
}

impl Device<'_> {
    /// Does what a message asks for. The answer, if the request has one of its own.
    pub(crate) fn serve(&mut self, mut message: Message) -> Result<Option<Answer>, Refusal> {
        let unknown = || Refusal::Unknown { request: message.request };
        let request = Request::try_from(message.request).map_err(|()| unknown())?;
        if !self.protocol.contains(feature_of(request)) {
            return Err(Refusal::NotNegotiated { request: message.request });
        }
        let (fds, allowed) = (message.fds.len(), fds_max(request));
        if fds > allowed {
            return Err(Refusal::Fds { request: message.request, fds, allowed });
        }
        match request {
            Request::GET_FEATURES
            | Request::GET_PROTOCOL_FEATURES
            | Request::GET_QUEUE_NUM
            | Request::GET_MAX_MEM_SLOTS => {
                empty(&message)?;
                return Ok(number(self.value_of(request)));
            }
            Request::GET_VRING_BASE => return self.get_base(&message).map(Some),
            Request::GET_INFLIGHT_FD => return self.get_inflight(&message).map(Some),
            // Each connection has one owner from its start; the deprecated reset of the owner asks for nothing.
            Request::SET_OWNER | Request::RESET_OWNER => empty(&message)?,
            Request::SET_FEATURES => self.set_features(&message)?,
            Request::SET_PROTOCOL_FEATURES => self.set_protocol_features(&message)?,
            Request::SET_MEM_TABLE => self.set_memory(&mut message)?,
            Request::ADD_MEM_REG => self.add_region(&mut message)?,
            Request::REM_MEM_REG => self.remove_region(&message)?,
            Request::SET_VRING_NUM => self.set_size(&message)?,
            Request::SET_VRING_ADDR => self.set_rings(&message)?,
            Request::SET_VRING_BASE => self.set_base(&message)?,
            Request::SET_VRING_ENABLE => self.set_enable(&message)?,
            Request::SET_VRING_KICK | Request::SET_VRING_CALL | Request::SET_VRING_ERR => {
                self.set_descriptor(request, &mut message)?;
            }
            Request::SET_INFLIGHT_FD => self.set_inflight(&mut message)?,
            Request::NET_SET_MTU => self.set_mtu(&message)?,
            Request::RESET_DEVICE => {
                empty(&message)?;
                self.reset()?;
            }
            _ => return Err(Refusal::Unknown { request: message.request }),
        }
        Ok(None)
    }

    fn value_of(&self, request: Request) -> u64 {
        match request {
            Request::GET_FEATURES => self.terms.features().bits(),
            Request::GET_PROTOCOL_FEATURES => PROTOCOL_FEATURES.bits(),
            // Pairs, as DPDK's and QEMU's network devices count.
            Request::GET_QUEUE_NUM => u64::from(self.terms.queue_pairs),
            _ => self.terms.memory.regions.min(REGIONS_MAX) as u64,
        }
    }

    fn set_features(&mut self, message: &Message) -> Result<(), Refusal> {
        let taken = Features::from_bits(body::<VhostUserU64>(message)?.value);
        let negotiated = Negotiated::take(taken, self.terms.features())
            .map_err(|foreign| Refusal::Features { foreign })?;
        if self.features == Some(negotiated) {
            return Ok(());
        }
        for queue in 0..self.queues.len() {
            self.check_stopped(queue, "features")?;
        }
        self.features = Some(negotiated);
        self.renew()
    }

    fn set_protocol_features(&mut self, message: &Message) -> Result<(), Refusal> {
        let bits = body::<VhostUserU64>(message)?.value;
        let foreign = bits & !PROTOCOL_FEATURES.bits();
        if foreign != 0 {
            return Err(Refusal::ProtocolFeatures { foreign });
        }
        self.protocol = Protocol::from_bits_truncate(bits);
        Ok(())
    }

    fn set_memory(&mut self, message: &mut Message) -> Result<(), Refusal> {
        let claims = region_claims(message)?;
        let fds = std::mem::take(&mut message.fds);
        if fds.len() != claims.len() {
            return Err(Refusal::Fds { request: message.request, fds: fds.len(), allowed: claims.len() });
        }
        let mut next = GuestMemory::default();
        for (claim, fd) in claims.into_iter().zip(fds) {
            next = self.with_region(&next, claim, fd.into())?;
        }
        self.memory = next;
        self.renew()
    }

    fn with_region(
        &self,
        table: &GuestMemory,
        claim: RegionClaim,
        file: File,
    ) -> Result<GuestMemory, Refusal> {
        let file = MemoryFile::check(file, self.terms.memory.accept_unsealed).map_err(MemoryError::from)?;
        Ok(table.with_region(claim, file, &self.memory, &self.terms.memory_rules())?)
    }

    fn add_region(&mut self, message: &mut Message) -> Result<(), Refusal> {
        let claim = region_claim(&*body::<VhostUserSingleMemoryRegion>(message)?);
        let file = one_fd(message)?;
        self.memory = self.with_region(&self.memory, claim, file)?;
        self.renew()
    }

    fn remove_region(&mut self, message: &Message) -> Result<(), Refusal> {
        let claim = region_claim(&*body::<VhostUserSingleMemoryRegion>(message)?);
        self.memory = self.memory.without_region(&claim);
        self.renew()
    }

    /// The queue that a message is about.
    fn queue(&self, index: u32) -> Result<usize, Refusal> {
        let queues = self.queues.len();
        let queue = usize::try_from(index).ok().filter(|queue| *queue < queues);
        queue.ok_or(Refusal::Queue { queue: index, queues })
    }

    fn vring_state(&self, message: &Message) -> Result<(usize, u32), Refusal> {
        let VhostUserVringState { index, num } = body(message)?;
        Ok((self.queue(index)?, num))
    }

    fn set_size(&mut self, message: &Message) -> Result<(), Refusal> {
        let (queue, size) = self.vring_state(message)?;
        let max = self.terms.ring_entries;
        let Some(entries) = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= max)
        else {
            return Err(Refusal::RingSize { size, max });
        };
        if self.queues[queue].size != Some(entries) {
            self.check_stopped(queue, "ring size")?;
        }
        self.queues[queue].size = Some(entries);
        self.renew()
    }

    fn set_rings(&mut self, message: &Message) -> Result<(), Refusal> {
        let VhostUserVringAddr { index, flags, descriptor: descriptors, used, available, .. } =
            body(message)?;
        let queue = self.queue(index)?;
        if flags != 0 {
            return Err(Refusal::RingFlags { flags });
        }
        let claim = RingClaim { descriptors, available, used };
        if self.queues[queue].rings != Some(claim) {
            self.check_stopped(queue, "ring")?;
        }
        self.queues[queue].rings = Some(claim);
        self.renew()
    }

    fn set_base(&mut self, message: &Message) -> Result<(), Refusal> {
        let (queue, base) = self.vring_state(message)?;
        self.check_stopped(queue, "ring index")?;
        self.queues[queue].base = u16::try_from(base).map_err(|_| Refusal::RingBase { base })?;
        Ok(())
    }

    /// Answers with where the queue stopped: nobody works on it any more by then.
    fn get_base(&mut self, message: &Message) -> Result<Answer, Refusal> {
        let (queue, _) = self.vring_state(message)?;
        let base = self.stop(queue)?;
        let index = u32::try_from(queue).unwrap_or(u32::MAX);
        let state = VhostUserVringState::new(index, u32::from(base));
        Ok(Answer { body: state.as_slice().to_vec(), fd: None })
    }

    fn set_enable(&mut self, message: &Message) -> Result<(), Refusal> {
        let (queue, value) = self.vring_state(message)?;
        self.queues[queue].enable = match value {
            0 => Some(false),
            1 => Some(true),
            _ => return Err(malformed(message)),
        };
        self.renew()
    }

    /// Kick, call and error descriptors. The kick one only says that the queue starts: rings are polled.
    fn set_descriptor(&mut self, request: Request, message: &mut Message) -> Result<(), Refusal> {
        let value = body::<VhostUserU64>(message)?.value;
        let queue = self.queue(u32::try_from(value & 0xff).unwrap_or(u32::MAX))?;
        let has_none = value & NO_DESCRIPTOR != 0;
        if value & !(0xff | NO_DESCRIPTOR) != 0 {
            return Err(malformed(message));
        }
        if has_none != message.fds.is_empty() {
            let allowed = usize::from(!has_none);
            return Err(Refusal::Fds { request: message.request, fds: message.fds.len(), allowed });
        }
        let file = message.fds.pop().map(File::from);
        match request {
            Request::SET_VRING_KICK => self.queues[queue].is_kicked = true,
            Request::SET_VRING_CALL => self.queues[queue].call = self.bell(queue, file, Raised::Now)?,
            _ => self.queues[queue].error = self.bell(queue, file, Raised::OnError)?,
        }
        self.renew()
    }

    fn bell(
        &self,
        queue: usize,
        file: Option<File>,
        raised: Raised,
    ) -> Result<Option<std::sync::Arc<Bell>>, Refusal> {
        let Some(file) = file else { return Ok(None) };
        let notifier = &self.terms.notifier;
        let bell = match raised {
            Raised::Now => notifier.bell(file),
            Raised::OnError => notifier.silent_bell(file),
        };
        bell.map(Some).map_err(|source| Refusal::Call { queue, source })
    }

    fn set_mtu(&mut self, message: &Message) -> Result<(), Refusal> {
        let mtu = body::<VhostUserU64>(message)?.value;
        let max = self.terms.mtu_bytes;
        let allowed = u16::try_from(mtu).ok().filter(|mtu| (MTU_BYTES_MIN..=max).contains(mtu));
        self.mtu_bytes = Some(allowed.ok_or(Refusal::Mtu { mtu, max })?);
        Ok(())
    }

    fn get_inflight(&self, message: &Message) -> Result<Answer, Refusal> {
        let VhostUserInflight { num_queues, queue_size, .. } = body(message)?;
        let (queues, entries) = (self.queues.len(), self.terms.ring_entries);
        if num_queues == 0 || usize::from(num_queues) > queues || queue_size == 0 || queue_size > entries {
            let what = format!("{num_queues} queues of {queue_size} entries; at most {queues} of {entries}");
            return Err(Refusal::Inflight { what });
        }
        let (claim, fd) = Inflight::create(num_queues, queue_size)?;
        let answer = VhostUserInflight::new(claim.len_bytes, claim.offset_bytes, num_queues, queue_size);
        Ok(Answer { body: answer.as_slice().to_vec(), fd: Some(fd) })
    }

    fn set_inflight(&mut self, message: &mut Message) -> Result<(), Refusal> {
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = body(message)?;
        let file = one_fd(message)?;
        for queue in 0..self.queues.len() {
            self.check_stopped(queue, "record of buffers in flight")?;
        }
        let claim = InflightClaim {
            len_bytes: mmap_size,
            offset_bytes: mmap_offset,
            queues: num_queues,
            entries: queue_size,
        };
        self.inflight = Some(Inflight::take(file, claim)?);
        Ok(())
    }
}

/// When a descriptor of the frontend's is raised first.
enum Raised {
    /// At once: a driver that lost an interrupt looks again, and what is no eventfd is found out.
    Now,
    /// When something goes wrong.
    OnError,
}

fn region_claim(region: &VhostUserMemoryRegion) -> RegionClaim {
    let VhostUserMemoryRegion { guest_phys_addr, memory_size, user_addr, mmap_offset } = *region;
    RegionClaim {
        guest_start: guest_phys_addr,
        len_bytes: memory_size,
        user_start: user_addr,
        file_offset_bytes: mmap_offset,
    }
}

/// The regions of a table: a count, and as many as it says.
fn region_claims(message: &Message) -> Result<Vec<RegionClaim>, Refusal> {
    let header_bytes = size_of::<VhostUserMemory>();
    let Some((header, rest)) = message.body.split_at_checked(header_bytes) else {
        return Err(malformed(message));
    };
    let mut table = VhostUserMemory::default();
    table.as_mut_slice().copy_from_slice(header);
    let (chunks, left) = rest.as_chunks::<{ size_of::<VhostUserMemoryRegion>() }>();
    let count = table.num_regions;
    if !left.is_empty() || u32::try_from(chunks.len()) != Ok(count) {
        return Err(malformed(message));
    }
    let claims = chunks.iter().map(|bytes| {
        let mut region = VhostUserMemoryRegion::default();
        region.as_mut_slice().copy_from_slice(bytes);
        region_claim(&region)
    });
    Ok(claims.collect())
}
