//! What one worker carries at the moment.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Counts what a worker carries, so that a drain can wait for its end.
#[derive(Default)]
pub struct Live {
    count: Cell<usize>,
    idle: Notify,
}

impl Live {
    /// Counts a connection or a tunnel until the guard is dropped.
    pub fn enter(self: &Rc<Self>) -> Alive {
        self.count.set(self.count.get() + 1);
        Alive(self.clone())
    }

    /// How much is carried.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Waits until nothing is carried.
    pub async fn idle(&self) {
        while self.count.get() > 0 {
            self.idle.notified().await;
        }
    }
}

/// Something that the worker carries.
pub struct Alive(Rc<Live>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.idle.notify_waiters();
        }
    }
}
