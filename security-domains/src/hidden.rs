//! Hidden domains: the private region of each VM or process that packets are copied to.
//!
//! Nobody names one in a file. Its id follows those of the declared domains, and it is called by its owner
//! and the domain that it belongs to: `ids0@blue`.

use serde::Serialize;

use crate::access::Access;
use crate::config::{Config, Owner};
use crate::domain::Pages;
use crate::ids::{DomainId, ProcessId, VmId};

/// The private region of one VM or process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HiddenDomain {
    /// Follows the ids of the declared domains.
    pub id: DomainId,
    /// `owner@domain`.
    pub name: String,
    /// Who maps it; nobody else does.
    pub owner: Owner,
    /// The declared domain whose packets are copied in and, unless the owner observes, out.
    pub parent: DomainId,
    /// Whether its owner observes, so that nothing comes back.
    pub observes: bool,
    /// Its packet memory.
    pub region_mib: u32,
    /// As in its declared domain.
    pub buffer_stride_bytes: u32,
    /// As in its declared domain.
    pub pages: Pages,
}

impl HiddenDomain {
    /// Bytes of the region.
    #[must_use]
    pub fn region_bytes(&self) -> u64 {
        u64::from(self.region_mib) << 20
    }

    /// Buffers that fit behind the first page of the region.
    #[must_use]
    pub fn buffer_count(&self) -> u64 {
        crate::domain::buffers_in(self.region_mib, self.buffer_stride_bytes)
    }
}

impl Config {
    /// The hidden domains in the order of their ids: those of VMs, then those of processes.
    #[must_use]
    pub fn hidden_domains(&self) -> Vec<HiddenDomain> {
        // The limits of the tables keep the count within 16 bits.
        let first = u16::try_from(self.domains.len()).unwrap_or(u16::MAX);
        let vms = (0..)
            .zip(&self.vms)
            .map(|(id, vm)| (Owner::Vm(VmId(id)), vm.name.as_str(), vm.domain, vm.access, vm.region_mib));
        let processes = (0..).zip(&self.processes).map(|(id, process)| {
            let owner = Owner::Process(ProcessId(id));
            (owner, process.name.as_str(), process.domain, process.access, process.region_mib)
        });
        let private = vms.chain(processes).filter_map(|(owner, name, domain, access, region_mib)| {
            Some((owner, name, domain, access, region_mib?))
        });
        (first..)
            .zip(private)
            .map(|(id, (owner, name, parent, access, region_mib))| {
                self.hidden_domain(DomainId(id), owner, name, (parent, access), region_mib)
            })
            .collect()
    }

    fn hidden_domain(
        &self,
        id: DomainId,
        owner: Owner,
        owner_name: &str,
        (parent, access): (DomainId, Access),
        region_mib: u32,
    ) -> HiddenDomain {
        let domain = &self.domains[parent.index()];
        HiddenDomain {
            id,
            name: format!("{owner_name}@{}", domain.name),
            owner,
            parent,
            observes: access.observes(),
            region_mib,
            buffer_stride_bytes: domain.buffer_stride_bytes,
            pages: domain.pages,
        }
    }
}
