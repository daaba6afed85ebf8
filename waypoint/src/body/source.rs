//! A request's body that may be needed more than once: for another attempt, and for mirrors.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use telemetry::Counters;

use super::{BodyError, count};

/// Bytes of a copy that wait for the mirror. One that is further behind than this is given up, because it must never slow
/// the request down.
const BEHIND: usize = 256 * 1024;

/// A body that came, and what is kept of it.
pub(crate) struct Source {
    incoming: RefCell<Incoming>,
    counters: Arc<Counters>,
    /// Chunks from the beginning on, as long as they fit.
    kept: RefCell<Vec<Part>>,
    bytes: Cell<usize>,
    limit: Cell<usize>,
    /// It did not fit: what is kept is not the whole any more.
    overflown: Cell<bool>,
    ended: Cell<bool>,
    copies: RefCell<Vec<Rc<Copy>>>,
}

#[derive(Clone)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// One attempt's view of a source, from the beginning. Only the last one that was made reads on.
pub(crate) struct Replayed {
    source: Rc<Source>,
    at: usize,
}

/// What a mirror has yet to send.
struct Copy {
    parts: RefCell<VecDeque<Part>>,
    bytes: Cell<usize>,
    end: Cell<Option<bool>>,
    waker: Cell<Option<Waker>>,
    size: SizeHint,
}

/// The body of a mirrored request.
pub(crate) struct Copied(Rc<Copy>);

impl Source {
    /// Keeps at most `limit` bytes for further attempts.
    pub(crate) fn new(incoming: Incoming, counters: Arc<Counters>, limit: usize) -> Rc<Self> {
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            counters,
            kept: RefCell::default(),
            bytes: Cell::new(0),
            limit: Cell::new(limit),
            overflown: Cell::new(false),
            ended: Cell::new(false),
            copies: RefCell::default(),
        })
    }

    /// Keeps at least this much. To be said before anything is read.
    pub(crate) fn keep_at_least(&self, bytes: usize) {
        self.limit.set(self.limit.get().max(bytes));
    }

    /// Whether the body can still be sent from its beginning.
    pub(crate) fn is_whole(&self) -> bool {
        !self.overflown.get()
    }

    /// The body from its beginning.
    pub(crate) fn replay(self: &Rc<Self>) -> Replayed {
        Replayed { source: self.clone(), at: 0 }
    }

    /// A copy for a mirror, from the beginning: what was read already is in it, if it was kept.
    pub(crate) fn copy(&self) -> Copied {
        let kept = self.kept.borrow();
        let copy = Rc::new(Copy {
            parts: RefCell::new(kept.iter().cloned().collect()),
            bytes: Cell::new(kept.iter().map(Part::len).sum()),
            end: Cell::new(None),
            waker: Cell::default(),
            size: self.size(&kept, 0),
        });
        if self.overflown.get() {
            copy.end(false);
        } else if self.ended.get() {
            copy.end(true);
        } else {
            self.copies.borrow_mut().push(copy.clone());
        }
        Copied(copy)
    }

    fn poll_more(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                count(&frame, &self.counters);
                self.keep(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.end(false);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.ended.set(true);
                self.end(true);
                Poll::Ready(None)
            }
        }
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        let part = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Part::Data(data.clone()),
            (None, Some(trailers)) => Part::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.copies.borrow_mut().retain(|copy| copy.push(&part));
        if self.overflown.get() {
            return;
        }
        let bytes = self.bytes.get() + part.len();
        self.bytes.set(bytes);
        if bytes > self.limit.get() {
            self.overflown.set(true);
            // Nobody can use them any more.
            self.kept.take();
        } else {
            self.kept.borrow_mut().push(part);
        }
    }

    /// What was kept from `at` on, and what is still to come.
    fn size(&self, kept: &[Part], at: usize) -> SizeHint {
        let waiting: usize = kept.iter().skip(at).map(Part::len).sum();
        if self.ended.get() {
            return SizeHint::with_exact(waiting as u64);
        }
        let rest = self.incoming.borrow().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + waiting as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + waiting as u64);
        }
        hint
    }

    fn end(&self, whole: bool) {
        self.copies.borrow_mut().drain(..).for_each(|copy| copy.end(whole));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.end(self.ended.get());
    }
}

impl Replayed {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let kept = self.source.kept.borrow().get(self.at).cloned();
        if let Some(part) = kept {
            self.at += 1;
            return Poll::Ready(Some(Ok(part.into())));
        }
        if self.source.ended.get() {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(self.source.poll_more(cx));
        // What was kept of it was read by us.
        self.at = self.source.kept.borrow().len();
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let read = self.at >= self.source.kept.borrow().len();
        read && (self.source.ended.get() || self.source.incoming.borrow().is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.source.size(&self.source.kept.borrow(), self.at)
    }
}

impl Copy {
    /// `false`: the mirror is given up.
    fn push(&self, part: &Part) -> bool {
        self.bytes.set(self.bytes.get() + part.len());
        let keeps_up = self.bytes.get() <= BEHIND;
        if keeps_up {
            self.parts.borrow_mut().push_back(part.clone());
            self.wake();
        } else {
            self.end(false);
        }
        keeps_up
    }

    fn end(&self, whole: bool) {
        self.end.set(Some(whole));
        if !whole {
            self.parts.take();
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Copied {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = self.0.parts.borrow_mut().pop_front();
        if let Some(part) = next {
            self.0.bytes.set(self.0.bytes.get() - part.len());
            return Poll::Ready(Some(Ok(part.into())));
        }
        match self.0.end.get() {
            Some(true) => Poll::Ready(None),
            Some(false) => Poll::Ready(Some(Err(BodyError::Dropped))),
            None => {
                self.0.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.0.size
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}

impl From<Part> for Frame<Bytes> {
    fn from(part: Part) -> Self {
        match part {
            Part::Data(data) => Self::data(data),
            Part::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}
