//! Runs one command on one SSH channel.

use std::{borrow::Cow, sync::Arc};

use russh::{
    Channel, ChannelMsg, ChannelReadHalf, Sig,
    server::{Handle, Msg},
};

use super::{
    Fault, Operation,
    actor::Actor,
    commands::{Finished, Interpreter, Outcome, wants_input},
    lock,
};

/// More standard input than this is not kept.
const MAX_INPUT: usize = 16 << 20;

/// What a flooding command prints, over and over.
const FLOOD: &[u8] = &[b'.'; 16 * 1024];

/// Runs `command` and closes the channel. Returns early when the client goes away.
pub(super) async fn run(actor: Arc<Actor>, channel: Channel<Msg>, session: Handle, command: String) {
    let (mut reader, writer) = channel.split();
    let host = &actor.host;
    host.pace().await;
    actor.record(Operation::Command(command.clone()));
    if lock(&host.fault).drops_command() {
        actor.drop_connection();
        return;
    }
    let input = if wants_input(&command) {
        match read_input(&mut reader).await {
            Some(input) => input,
            None => return,
        }
    } else {
        Vec::new()
    };
    let outcome = Interpreter::new(&actor, input).run(&command);
    let stopped_by = match outcome {
        Outcome::Exited(finished) => {
            // The client may have hung up meanwhile; then there is nobody left to tell.
            let _ = report(&actor, &writer, finished).await;
            return;
        }
        Outcome::Hangs => stopped(&mut reader).await,
        Outcome::Floods => {
            let flood = async {
                while writer.data_bytes(Cow::Borrowed(FLOOD).into_owned()).await.is_ok() {}
                std::future::pending().await
            };
            tokio::select! {
                stopped_by = stopped(&mut reader) => stopped_by,
                never = flood => never,
            }
        }
    };
    if let Some(signal) = stopped_by {
        let _ = session.exit_signal_request(writer.id(), signal, false, String::new(), String::new()).await;
        let _ = writer.eof().await;
    }
    let _ = writer.close().await;
}

async fn report(actor: &Actor, writer: &russh::ChannelWriteHalf<Msg>, finished: Finished) -> Result<(), russh::Error> {
    writer.data_bytes(finished.stdout).await?;
    writer.extended_data_bytes(1, finished.stderr).await?;
    if actor.host.fault() != Some(Fault::NoExitStatus) {
        writer.exit_status(finished.code).await?;
    }
    writer.eof().await?;
    writer.close().await
}

/// Everything up to the end of standard input; `None` when the channel closed before.
async fn read_input(reader: &mut ChannelReadHalf) -> Option<Vec<u8>> {
    let mut input = Vec::new();
    loop {
        match reader.wait().await? {
            ChannelMsg::Data { data } if input.len() + data.len() <= MAX_INPUT => {
                input.extend_from_slice(&data);
            }
            ChannelMsg::Data { .. } | ChannelMsg::Close => return None,
            ChannelMsg::Eof => return Some(input),
            _ => {}
        }
    }
}

/// Waits until the client stops the command: by signal, which is returned, or by closing the channel.
async fn stopped(reader: &mut ChannelReadHalf) -> Option<Sig> {
    loop {
        match reader.wait().await? {
            ChannelMsg::Signal { signal } => return Some(signal),
            ChannelMsg::Close => return None,
            _ => {}
        }
    }
}
