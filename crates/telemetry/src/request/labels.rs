//! The label set of Istio's HTTP metrics (telemetry.md 1).

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use crate::labels::{Labels, LabelsRef, UNKNOWN, put};

/// A label set, borrowed from the facts of a request.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct RequestLabelsRef<'a> {
    pub(crate) base: LabelsRef<'a>,
    pub(crate) protocol: &'static str,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
}

/// A label set, owned by its series.
#[derive(Debug)]
pub(crate) struct RequestLabels {
    base: Labels,
    protocol: &'static str,
    status: u16,
    grpc_status: Option<u16>,
}

impl RequestLabelsRef<'_> {
    pub(crate) fn to_owned(self) -> RequestLabels {
        let Self { base, protocol, status, grpc_status } = self;
        RequestLabels { base: base.to_owned(), protocol, status, grpc_status }
    }

    /// Where requests go whose series found no room.
    pub(crate) fn overflow(self) -> Self {
        Self { base: LabelsRef::overflow(self.base.reporter, self.base.flag), ..self }
    }
}

impl RequestLabels {
    pub(crate) fn borrow(&self) -> RequestLabelsRef<'_> {
        let Self { base, protocol, status, grpc_status } = self;
        RequestLabelsRef { base: base.borrow(), protocol, status: *status, grpc_status: *grpc_status }
    }
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let l = self.borrow();
        l.base.encode_ends(encoder)?;
        put(encoder, "request_protocol", l.protocol)?;
        put(encoder, "response_code", &l.status.to_string())?;
        // Istio gives the label to every series, and says nothing in it where the call is not gRPC.
        let grpc = l.grpc_status.map_or_else(String::new, |s| s.to_string());
        put(encoder, "grpc_response_status", if l.protocol == "grpc" { &grpc } else { UNKNOWN })?;
        l.base.encode_end(encoder)
    }
}
