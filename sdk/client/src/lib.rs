//! The client's side of Warren: submit a job and follow its events, in order and without
//! duplicates. [`oip`] is the body format of jobs and results, [`transport`] what a connection to
//! a broker has to offer, [`fold`] the rule that drops what a broker delivers twice or late.
//!
//! ```
//! # use std::sync::Arc;
//! # use warren_client::{Client, ClientError, EventBody, JobRequest, Transport};
//! # async fn example(transport: Arc<dyn Transport>) -> Result<(), ClientError> {
//! let client = Client::connect(transport).await?;
//! let mut job = client.submit(JobRequest::new("echo").bytes("text", "hello")).await?;
//! while let Some(event) = job.next().await {
//!     if let EventBody::Status { stage, progress, .. } = event?.body {
//!         println!("{stage} {progress:?}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod client;
mod event;
pub mod fold;
mod follow;
mod handle;
pub mod oip;
mod request;
pub mod transport;

pub use client::{Client, ClientError};
pub use event::{Event, EventBody, JobError};
pub use follow::Follower;
pub use handle::JobHandle;
pub use request::{Class, Encoding, JobRequest};
pub use transport::{EventMessage, Replies, RequestMessage, Transport, TransportError};
