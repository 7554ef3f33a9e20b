//! A node as the world sees it, and the network between it and everything else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::history::Stage;

/// How bad a node's network is.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The longest ordinary delay of one way.
    pub delay: Duration,
    /// How often a request gets lost.
    pub lost: f64,
    /// How often the answer to an executed request gets lost.
    pub reply_lost: f64,
    /// How often a request arrives long after its sender gave up.
    pub late: f64,
    /// How often the sender waits very long before it gives up on a lost answer.
    pub hang: f64,
}

impl Link {
    pub const GOOD: Self = Self { delay: Duration::from_millis(12), lost: 0.0, reply_lost: 0.0, late: 0.0, hang: 0.0 };
}

/// What a request will meet on its way; drawn when it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Trip {
    /// The network is good, so far.
    pub certain: bool,
    pub there: Duration,
    pub back: Duration,
    pub lost: bool,
    pub reply_lost: bool,
    /// When the sender gives up.
    pub patience: Duration,
}

/// One process.
pub struct Node {
    /// Its number and its incarnation, such as `n1.2`.
    pub name: Arc<str>,
    pub stage: Arc<Stage>,
    /// How fast its clocks run.
    pub rate: f64,
    state: Mutex<State>,
    listeners: Mutex<Vec<watch::Sender<u64>>>,
    candidates: Mutex<Vec<watch::Sender<u64>>>,
    pub tenure: Mutex<Option<Tenure>>,
}

/// What a node knows about its own lease.
#[derive(Debug, Clone)]
pub struct Tenure {
    pub epoch: u64,
    /// Until when it may trust the lease, by its own monotonic clock.
    pub deadline: Duration,
    /// It has begun to give the lease back.
    pub released: bool,
}

#[derive(Debug)]
struct State {
    dead: bool,
    paused_until: Instant,
    cut_until: Instant,
    wall: time::Duration,
    link: Link,
    hampered: bool,
    /// Who the engine says it is.
    engine: Option<String>,
}

impl Node {
    pub fn new(name: String, stage: Arc<Stage>, rate: f64, link: Link, wall: time::Duration) -> Self {
        let now = Instant::now();
        Self {
            name: name.into(),
            rate,
            state: Mutex::new(State {
                dead: false,
                paused_until: now,
                cut_until: now,
                wall,
                link,
                hampered: rate != 1.0,
                engine: None,
            }),
            stage,
            listeners: Mutex::default(),
            candidates: Mutex::default(),
            tenure: Mutex::default(),
        }
    }

    /// Every answer and every sleep of the node passes here: at once if it runs, when it is resumed if it is paused,
    /// never if it is dead.
    pub async fn gate(&self) {
        loop {
            let (dead, until) = {
                let state = self.state.lock().unwrap();
                (state.dead, state.paused_until)
            };
            if dead {
                std::future::pending::<()>().await;
            }
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    pub fn monotonic(&self) -> Duration {
        self.stage.now().mul_f64(self.rate)
    }

    pub fn wall_offset(&self) -> time::Duration {
        self.state.lock().unwrap().wall
    }

    pub fn step_wall(&self, offset: time::Duration) {
        self.state.lock().unwrap().wall = offset;
    }

    pub fn crash(&self) {
        self.state.lock().unwrap().dead = true;
    }

    pub fn is_dead(&self) -> bool {
        self.state.lock().unwrap().dead
    }

    pub fn pause(&self, length: Duration) {
        let mut state = self.state.lock().unwrap();
        state.hampered = true;
        state.paused_until = Instant::now() + length;
    }

    pub fn is_paused(&self) -> bool {
        self.state.lock().unwrap().paused_until > Instant::now()
    }

    pub fn cut(&self, length: Duration) {
        let mut state = self.state.lock().unwrap();
        state.hampered = true;
        state.cut_until = Instant::now() + length;
    }

    pub fn is_cut(&self) -> bool {
        self.state.lock().unwrap().cut_until > Instant::now()
    }

    pub fn set_link(&self, link: Link) {
        let mut state = self.state.lock().unwrap();
        state.hampered |= link.late + link.lost + link.reply_lost > 0.0;
        state.link = link;
    }

    /// Whether anything ever kept it from hearing in time that a lease was lost.
    pub fn is_hampered(&self) -> bool {
        self.state.lock().unwrap().hampered
    }

    /// Ends what ends by itself; a pause has to pass.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut_until = Instant::now();
        state.wall = time::Duration::ZERO;
        state.link = Link::GOOD;
    }

    pub fn call_it(&self, engine: &str) {
        self.state.lock().unwrap().engine.get_or_insert_with(|| engine.to_owned());
    }

    pub fn engine(&self) -> Option<String> {
        self.state.lock().unwrap().engine.clone()
    }

    /// What the next request will meet.
    pub fn trip(&self) -> Trip {
        let (link, cut) = {
            let state = self.state.lock().unwrap();
            (state.link, state.cut_until > Instant::now())
        };
        let stage = &self.stage;
        let longest = u64::try_from(link.delay.as_millis()).unwrap();
        let trouble = link.lost + link.reply_lost + link.late + link.hang > 0.0;
        if !trouble && !cut {
            let (there, back) = (stage.millis(0..=longest), stage.millis(0..=longest));
            return Trip { certain: true, there, back, lost: false, reply_lost: false, patience: Duration::ZERO };
        }
        let mut trip = Trip {
            certain: false,
            there: stage.millis(0..=longest),
            back: stage.millis(0..=longest),
            lost: stage.happens(link.lost),
            reply_lost: stage.happens(link.reply_lost),
            patience: stage.millis(2_000..=6_000),
        };
        if stage.happens(link.late) {
            trip.there = stage.millis(1_000..=45_000);
        }
        if stage.happens(link.hang) {
            trip.patience = stage.millis(20_000..=60_000);
        }
        trip
    }

    /// A channel that rings when jobs may be claimable. One for each listener: the order in which those of one channel
    /// would wake is not the seed's to decide.
    pub fn listen(&self) -> watch::Receiver<u64> {
        add(&self.listeners)
    }

    /// The same for leases that may be free.
    pub fn stand(&self) -> watch::Receiver<u64> {
        add(&self.candidates)
    }

    pub fn ring(&self, lease: bool) {
        let senders = if lease { &self.candidates } else { &self.listeners };
        for sender in senders.lock().unwrap().iter() {
            sender.send_modify(|count| *count += 1);
        }
    }
}

fn add(senders: &Mutex<Vec<watch::Sender<u64>>>) -> watch::Receiver<u64> {
    let mut senders = senders.lock().unwrap();
    senders.retain(|sender| sender.receiver_count() > 0);
    let (sender, receiver) = watch::channel(0);
    senders.push(sender);
    receiver
}
