//! ext_proc: a conversation about one request. One stream carries both its halves, so that the service may remember.

use std::time::Duration;

use bytes::Bytes;
use http::response;
use http::{HeaderMap, StatusCode};
use hyper::body::Body;
use proto::ext_proc as wire;
use routing::model::ExternalProcessing;
use tokio::sync::mpsc;
use wire::common_response::ResponseStatus;
use wire::processing_request::Request as Half;
use wire::processing_response::Response as Answer;

use super::changes::{Changes, Manner};
use super::grpc::{self, Messages};
use super::{AskedHttp, Call, CallBody, Came, Refusal, Transport, final_status};

/// The method of the service.
const PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// How long each half is waited for when the user does not say: Envoy's default, which services are written for.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long the stream may live: the answer of a slow backend comes between its two halves.
const LIFE: Duration = Duration::from_secs(3600);

/// What came of one half.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Processed {
    /// It is answered here.
    Answer(Refusal),
    /// It goes on, changed.
    GoOn(Changes),
}

/// One half of the conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'a> {
    /// The request.
    Request { http: AskedHttp<'a>, no_body: bool },
    /// The answer of the backend.
    Response { head: &'a response::Parts, no_body: bool },
}

/// The conversation about one request.
#[derive(Debug)]
pub(crate) struct Conversation<B> {
    settings: ExternalProcessing,
    state: State<B>,
}

/// ```text
/// Closed ── first half that is shown ──▶ Open ── the service ends the stream, or fails ──▶ Over
/// ```
#[derive(Debug)]
enum State<B> {
    Closed,
    Open {
        questions: mpsc::UnboundedSender<Bytes>,
        answers: Messages<B>,
    },
    /// Nothing more is asked: the service ended the stream well, or its failure was passed over.
    Over,
}

impl<B: Body<Data = Bytes> + Unpin> Conversation<B> {
    /// A conversation that has not begun.
    pub(crate) fn new(settings: ExternalProcessing) -> Self {
        Self { settings, state: State::Closed }
    }

    /// Whether the service wants to see the answer.
    pub(crate) fn wants_response(&self) -> bool {
        self.settings.response_headers && !matches!(self.state, State::Over)
    }

    /// Shows one half, and does what the service says. Without an answer the request ends with 500 (as for Envoy), unless the
    /// user has said that it goes on then.
    pub(crate) async fn show<T: Transport<Body = B>>(&mut self, transport: &T, half: Shown<'_>) -> Processed {
        let wanted = match half {
            Shown::Request { .. } => self.settings.request_headers,
            Shown::Response { .. } => self.settings.response_headers,
        };
        if !wanted || matches!(self.state, State::Over) {
            return Processed::GoOn(Changes::default());
        }
        let timeout = self.settings.timeout.filter(|t| !t.is_zero()).unwrap_or(PATIENCE);
        let asked = tokio::time::timeout(timeout, self.ask(transport, &half)).await;
        let asked = asked.unwrap_or_else(|_| Err(format!("it did not answer within {timeout:?}")));
        let came = match &asked {
            Ok(Processed::GoOn(_)) => Came::Passed,
            Ok(Processed::Answer(_)) => Came::Refused,
            Err(_) if self.settings.fail_open => Came::Skipped,
            Err(_) => Came::Failed,
        };
        transport.told(Call::Process, came);
        match asked {
            Ok(processed) => processed,
            Err(reason) => {
                self.state = State::Over;
                let reason = format!("external processing by {}: {reason}", self.settings.backend.service);
                if self.settings.fail_open {
                    tracing::debug!(reason, "processing is skipped, as configured");
                    return Processed::GoOn(Changes::default());
                }
                Processed::Answer(Refusal::silent(StatusCode::INTERNAL_SERVER_ERROR, reason))
            }
        }
    }

    async fn ask<T: Transport<Body = B>>(&mut self, transport: &T, half: &Shown<'_>) -> Result<Processed, String> {
        let question = grpc::frame(&wire::ProcessingRequest { request: Some(half.message()) });
        if let State::Open { questions, .. } = &self.state {
            // A stream that has ended meanwhile tells so below.
            if questions.send(question).is_err() {
                tracing::trace!("the processor's stream takes no more questions");
            }
        } else {
            let (questions, fed) = mpsc::unbounded_channel();
            questions.send(question).map_err(|_| "its stream cannot be fed")?;
            let response = transport.send(grpc::head(PATH, LIFE, CallBody::Fed(fed))).await?;
            self.state = State::Open { questions, answers: Messages::new(response)? };
        }
        loop {
            let State::Open { answers, .. } = &mut self.state else { return Err("its stream is gone".to_owned()) };
            let Some(answer) = answers.next::<wire::ProcessingResponse>().await? else {
                // Ended well: it has nothing more to say (external_processor.proto, step 6).
                self.state = State::Over;
                return Ok(Processed::GoOn(Changes::default()));
            };
            // A message without an answer asks for more time, which is not granted.
            let Some(answer) = answer.response else { continue };
            let processed = half.understand(answer)?;
            if matches!(processed, Processed::Answer(_)) {
                self.state = State::Over;
            }
            return Ok(processed);
        }
    }
}

impl Shown<'_> {
    fn message(&self) -> Half {
        match self {
            Self::Request { http, no_body } => {
                let parts = http.parts;
                let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
                let pseudo = [
                    (":authority", http.host),
                    (":method", parts.method.as_str()),
                    (":path", path),
                    (":scheme", "http"),
                ];
                Half::RequestHeaders(headers(&pseudo, &parts.headers, *no_body))
            }
            Self::Response { head, no_body } => {
                Half::ResponseHeaders(headers(&[(":status", head.status.as_str())], &head.headers, *no_body))
            }
        }
    }

    fn understand(&self, answer: Answer) -> Result<Processed, String> {
        let common = match (self, answer) {
            (_, Answer::ImmediateResponse(answer)) => return Ok(Processed::Answer(immediate(answer))),
            (Self::Request { .. }, Answer::RequestHeaders(h)) | (Self::Response { .. }, Answer::ResponseHeaders(h)) => {
                h.response.unwrap_or_default()
            }
            _ => return Err("it answered to something that was not asked".to_owned()),
        };
        if common.status() != ResponseStatus::Continue {
            return Err("it wants to replace the body, which is not shown and cannot be replaced".to_owned());
        }
        Ok(Processed::GoOn(common.header_mutation.map(|m| changes(&m)).unwrap_or_default()))
    }
}

fn headers(pseudo: &[(&str, &str)], all: &HeaderMap, no_body: bool) -> wire::HttpHeaders {
    let header = |key: &str, raw: &[u8]| wire::HeaderValue {
        key: key.to_owned(),
        value: String::new(),
        raw_value: raw.to_vec(),
    };
    let pseudo = pseudo.iter().map(|(name, value)| header(name, value.as_bytes()));
    let real = all.iter().map(|(name, value)| header(name.as_str(), value.as_bytes()));
    let headers = wire::HeaderMap { headers: pseudo.chain(real).collect() };
    wire::HttpHeaders { headers: Some(headers), end_of_stream: no_body }
}

fn changes(mutation: &wire::HeaderMutation) -> Changes {
    let mut changes = Changes::default();
    // Removed first, so that a header in both lists is replaced (as Envoy does).
    mutation.remove_headers.iter().for_each(|name| changes.remove(name));
    for option in &mutation.set_headers {
        let Some(header) = &option.header else { continue };
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        changes.set(&header.key, value, Manner::of(option.append, option.append_action));
    }
    changes
}

fn immediate(answer: wire::ImmediateResponse) -> Refusal {
    let details: String = answer.details.chars().take(200).collect();
    Refusal {
        status: final_status(answer.status.map_or(0, |s| s.code.into())),
        headers: answer.headers.map(|m| changes(&m).alone()).unwrap_or_default(),
        body: Bytes::from(answer.body),
        grpc: answer.grpc_status.map(|s| u8::try_from(s.status).unwrap_or(2)),
        reason: format!("answered by the external processor {details}").trim_end().to_owned(),
    }
}
