//! Whom the shares of peers are counted for.

use crate::connection::{Peer, PeerAddress};
use crate::half_open::PeerKey;

/// Who connections are counted for that use something up together: who a peer has shown to be, or else the host that it
/// connects from (of IPv6 the network of 64 bits, in shared memory the user).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Party(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Identity(String),
    Host(PeerKey),
    /// All of this process.
    Here,
}

impl From<&Peer> for Party {
    fn from(peer: &Peer) -> Self {
        let kind = match (peer.identity(), peer.address()) {
            (Some(identity), _) => Kind::Identity(identity.to_owned()),
            (None, PeerAddress::Socket(address)) => Kind::Host(PeerKey::from(address.ip())),
            (None, PeerAddress::Process { uid, .. }) => Kind::Host(PeerKey::user(*uid)),
            (None, PeerAddress::Memory(_)) => Kind::Here,
        };
        Self(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(address: &str) -> Party {
        Party::from(&Peer::at(PeerAddress::Socket(address.parse().unwrap())))
    }

    #[test]
    fn the_ports_of_a_host_are_one_party_and_an_identity_is_one_wherever_it_is() {
        assert_eq!(party("10.0.0.1:1"), party("10.0.0.1:2"));
        assert_eq!(party("[2001:db8::1]:1"), party("[2001:db8::2]:1"));
        assert_ne!(party("10.0.0.1:1"), party("10.0.0.2:1"));
        let known = |address: &str| {
            let peer = Peer::at(PeerAddress::Socket(address.parse().unwrap()));
            Party::from(&peer.with_identity("alice".into()))
        };
        assert_eq!(known("10.0.0.1:1"), known("10.0.0.2:2"));
        assert_ne!(known("10.0.0.1:1"), party("10.0.0.1:1"));
    }
}
