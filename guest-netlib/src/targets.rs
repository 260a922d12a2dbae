//! The services and ports that this network function may name in a verdict.

use std::fmt;

/// A service that a packet can be sent to; from [`crate::Endpoint::target_service`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceTarget(pub(crate) u16);

/// A port that a packet can leave by; from [`crate::Endpoint::target_port`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortTarget(pub(crate) u16);

impl ServiceTarget {
    /// The switch's number of the service.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0
    }
}

impl PortTarget {
    /// The switch's number of the port, the same as [`crate::Packet::ingress_port`] shows.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0
    }
}

/// A service or a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Service,
    Port,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "service",
            Self::Port => "port",
        })
    }
}

/// One line of the switch's target table, copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) id: u16,
    pub(crate) name: String,
}

/// The config lets this network function name no such target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no {kind} \"{name}\" among the targets of this endpoint ({known}); list it in may_target of the service"
)]
pub struct TargetError {
    kind: Kind,
    name: String,
    known: String,
}

/// The targets of a control area.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets(pub(crate) Vec<Target>);

impl Targets {
    pub(crate) fn id_of(&self, kind: Kind, name: &str) -> Result<u16, TargetError> {
        let found = self.0.iter().find(|target| target.kind == kind && target.name == name);
        found.map(|target| target.id).ok_or_else(|| TargetError {
            kind,
            name: name.to_owned(),
            known: self.list(),
        })
    }

    pub(crate) fn name_of(&self, kind: Kind, id: u16) -> Option<&str> {
        let found = self.0.iter().find(|target| target.kind == kind && target.id == id);
        found.map(|target| target.name.as_str())
    }

    fn list(&self) -> String {
        let known: Vec<_> = self.0.iter().map(|target| format!("{} {}", target.kind, target.name)).collect();
        if known.is_empty() { "there are none".to_owned() } else { known.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        let target = |kind, id, name: &str| Target { kind, id, name: name.to_owned() };
        Targets(vec![target(Kind::Service, 0, "client"), target(Kind::Port, 3, "client")])
    }

    #[test]
    fn a_service_and_a_port_of_one_name_are_told_apart() {
        assert_eq!(targets().id_of(Kind::Service, "client"), Ok(0));
        assert_eq!(targets().id_of(Kind::Port, "client"), Ok(3));
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        let err = targets().id_of(Kind::Port, "server").unwrap_err();
        assert_eq!(
            err.to_string(),
            "no port \"server\" among the targets of this endpoint (service client, port client); list it in \
             may_target of the service"
        );
    }
}
