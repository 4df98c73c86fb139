//! What an operator can set.

use std::{
    fmt,
    net::{AddrParseError, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use protocol::cidr::Cidr;
use serde::{Deserialize, Serialize};

use super::rtmp::session;

/// Where to listen: an address and port, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(pub Option<SocketAddr>);

impl FromStr for Listen {
    type Err = AddrParseError;
    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text {
            "off" => Ok(Self(None)),
            address => address.parse().map(|address| Self(Some(address))),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let refusal =
            |_| format!("{text:?} is not where to listen: write [::]:1935, 127.0.0.1:1935 or off");
        text.parse().map_err(refusal)
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// What becomes of a second publisher of a stream that is live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondPublisher {
    /// It is refused, unless the first one has sent nothing for 3 seconds (an encoder that comes back from a broken network).
    #[default]
    Refuse,
    /// It takes over: the first one is cut and the broadcast goes on with the second behind a discontinuity.
    TakeOver,
}

/// The `ingest` section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of RTMP, or `off`. `[::]` takes IPv4 as well.
    pub rtmp: Listen,
    /// Address and port of RTMPS, or `off`.
    pub rtmps: Listen,
    /// Second publisher of a live stream: `refuse` or `take_over`.
    pub second_publisher: SecondPublisher,
    /// Ranges of addresses whose connections begin with a PROXY protocol header (version 1 or 2), such as a TLS-terminating proxy's. From any other address such a header is refused.
    pub proxy_from: Vec<Cidr>,
    /// From connection to an admitted publisher, milliseconds.
    pub handshake_deadline_ms: u64,
    /// How long the edge may take to admit a publisher, milliseconds.
    pub admission_deadline_ms: u64,
    /// How long a publisher may go without audio or video, milliseconds.
    pub silence_ms: u64,
    /// The largest audio or video message, bytes (at most 16,777,215, what the protocol can say).
    pub max_message_bytes: usize,
    /// The highest bit rate of a publisher, averaged over ten seconds, bits a second.
    pub max_bitrate_bps: u64,
    /// Connections at one time.
    pub max_connections: usize,
    /// Connections at one time of one address (of one /64 in IPv6).
    pub max_connections_per_address: usize,
    /// Connections at one time that are not yet admitted.
    pub max_unadmitted: usize,
    /// Events that wait for the pipeline at most.
    pub queue_events: usize,
    /// Payload bytes that wait for the pipeline at most.
    pub queue_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        let any = |port| Listen(Some((Ipv6Addr::UNSPECIFIED, port).into()));
        Self {
            rtmp: any(1935),
            rtmps: any(1936),
            second_publisher: SecondPublisher::default(),
            proxy_from: Vec::new(),
            handshake_deadline_ms: 10_000,
            admission_deadline_ms: 5_000,
            silence_ms: 15_000,
            max_message_bytes: 4 << 20,
            max_bitrate_bps: 50_000_000,
            max_connections: 1_000,
            max_connections_per_address: 100,
            max_unadmitted: 200,
            queue_events: 1_024,
            queue_bytes: 16 << 20,
        }
    }
}

impl Config {
    pub(super) fn handshake_deadline(&self) -> Duration {
        Duration::from_millis(self.handshake_deadline_ms)
    }

    pub(super) fn admission_deadline(&self) -> Duration {
        Duration::from_millis(self.admission_deadline_ms)
    }

    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(self.silence_ms)
    }

    pub(super) fn session_limits(&self) -> session::Limits {
        session::Limits {
            max_message_bytes: self.max_message_bytes,
            ..session::Limits::default()
        }
    }

    pub(super) fn queue_limit(&self) -> super::queue::Limit {
        super::queue::Limit {
            events: self.queue_events,
            bytes: self.queue_bytes,
        }
    }
}
