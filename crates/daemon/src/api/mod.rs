//! HTTP over two Unix sockets: who may read asks on one, who may give orders asks on the other.
//!
//! The server never waits for the loop longer than a bound, and the loop never waits for the server: between them
//! stands [`Loop::ask`].

pub mod client;
mod connections;
pub mod evidence;
mod generations;
pub mod groups;
mod import;
mod names;
mod openapi;
mod pausing;
pub mod problem;
mod server;
pub mod sockets;
pub mod stores;
mod stream;
pub mod view;

pub use server::serve;
pub use stream::Hub;

use crate::supervisor::inbox::Asker;
use hale_core::effect::Answer;
use hale_core::event::Question;
use hale_core::record::Actor;
use tokio::sync::oneshot;

/// Where the server's questions go.
pub trait Loop: Send + Sync + 'static {
    /// Hands a question to the loop, without waiting. The answer arrives in the channel; a channel that is dropped
    /// means that there will be none. `None`: the loop has too much to do to take the question.
    fn ask(&self, question: Question) -> Option<oneshot::Receiver<Answer>>;

    /// The same with the order to read the configuration again, by whoever is behind the socket.
    fn reload(&self, actor: Actor) -> Option<oneshot::Receiver<Answer>>;
}

impl Loop for Asker {
    fn ask(&self, question: Question) -> Option<oneshot::Receiver<Answer>> {
        Asker::ask(self, question).ok()
    }

    fn reload(&self, actor: Actor) -> Option<oneshot::Receiver<Answer>> {
        Asker::reload(self, actor).ok()
    }
}
