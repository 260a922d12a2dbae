//! The configuration language: ports, domains, VMs, services, chains; findings instead of failures.
