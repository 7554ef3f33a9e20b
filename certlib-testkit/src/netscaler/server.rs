//! HTTP: one address for each node.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use super::{
    fault::{self, Fault},
    history::Record,
    lock,
    nitro::{Answer, Call, Refusal, code},
    operate,
    state::State,
    system,
};
use crate::http_server::{Handler, Peer};

/// The management address of one node.
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) state: Arc<Mutex<State>>,
}

impl Handler for Node {
    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        match Call::read(&request) {
            None => Some(page(404, "Not Found")),
            Some(Err(refusal)) => Some(Answer::from(refusal).render()),
            Some(Ok(call)) => self.meet(call, peer.connection, &request).await,
        }
    }
}

impl Node {
    async fn meet(&self, call: Call, connection: u64, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        let fault = fault::meet(&mut lock(&self.state).faults, &call);
        if let Some(Fault::Slow(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let mut state = lock(&self.state);
        match &fault {
            Some(Fault::FailOver) if state.nodes > 1 => state.primary = 1 - state.primary,
            Some(Fault::AnotherAdmin(calls)) => {
                for call in calls {
                    operate(&mut state, "", call);
                }
            }
            Some(Fault::SessionExpires) => state.sessions.clear(),
            _ => {}
        }
        let mut record = Record::of(self.number, connection, state.primary == self.number, &call);
        let response = match fault {
            Some(Fault::LoseRequest) => None,
            Some(Fault::Refuse { status, errorcode }) => {
                Some(Answer::from(Refusal::new(status, errorcode, "Injected")).render())
            }
            Some(Fault::Busy { retry_after }) => {
                let mut answer = Answer::from(Refusal::new(503, code::BUSY, "Configuration is locked by another user"));
                answer.headers.extend(retry_after.map(|after| ("retry-after", after.as_secs().to_string())));
                Some(answer.render())
            }
            Some(Fault::Answer { status, body }) => Some(page(status, &body)),
            Some(Fault::LoseReply) => {
                self.carry_out(&mut state, &call, request);
                None
            }
            _ => Some(self.carry_out(&mut state, &call, request).render()),
        };
        record.status = response.as_ref().map(|response| response.status().as_u16());
        state.history.push(record);
        response
    }

    fn carry_out(&self, state: &mut State, call: &Call, request: &Request<Bytes>) -> Answer {
        if call.resource == "login" && call.method == http::Method::POST {
            return system::log_in(state, self.number, call).unwrap_or_else(Answer::from);
        }
        match system::authenticate(state, self.number, request.headers()) {
            Ok(caller) => state.handle(&caller, call),
            Err(refusal) => refusal.into(),
        }
    }
}

fn page(status: u16, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response
}
