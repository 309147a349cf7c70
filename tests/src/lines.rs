//! What a process writes, line by line, as it comes.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::deadline;

/// Lines read so far, each made a `T` or left out; a thread reads on, so that the writer never waits for us.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    lines: Vec<T>,
    /// The writer has closed its end.
    ended: bool,
}

impl<T: Clone + Send + 'static> Lines<T> {
    /// Reads `pipe` to its end.
    pub(crate) fn of(
        pipe: impl Read + Send + 'static,
        parse: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> Self {
        let state = Mutex::new(State { lines: Vec::new(), ended: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let reader = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let Some(line) = parse(&String::from_utf8_lossy(&line)) else { continue };
                reader.lock().lines.push(line);
                reader.changed.notify_all();
            }
            reader.lock().ended = true;
            reader.changed.notify_all();
        });
        Self { shared }
    }

    /// The first line from `start` on that is wanted, and its position.
    ///
    /// `None` when the writer ends without it, or time is up.
    pub(crate) fn find(&self, start: usize, wanted: impl Fn(&T) -> bool) -> Option<(usize, T)> {
        let mut next = start;
        let mut found = None;
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, deadline(), |state| {
            let position = state.lines.iter().skip(next).position(&wanted);
            found = position.and_then(|ahead| next.checked_add(ahead));
            next = state.lines.len();
            found.is_none() && !state.ended
        });
        let (state, _timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let position = found?;
        state.lines.get(position).map(|line| (position, line.clone()))
    }

    /// All lines, once the writer has closed its end; those until now when it does not in time.
    pub(crate) fn to_end(&self) -> Vec<T> {
        let state = self.shared.lock();
        let waited =
            self.shared.changed.wait_timeout_while(state, deadline(), |state| !state.ended);
        let (state, _timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state.lines.clone()
    }

    /// How many lines there are so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.lock().lines.len()
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
