use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::task::LocalSet;

use super::*;

const CACHE: Duration = Duration::from_mins(10);
const MOMENT: Duration = Duration::from_millis(10);

/// A set with one key of this name.
fn set(name: &str) -> String {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{name}","x":"{x}"}}]}}"#)
}

fn remote() -> JwtProvider {
    let keys = RemoteKeys {
        cluster: "keys".into(),
        authority: "keys".into(),
        path: "/".into(),
        timeout: Duration::from_secs(5),
        cache: CACHE,
        retries: 0,
        retry_pause: Duration::from_secs(1),
    };
    JwtProvider { name: "issuer".into(), keys: JwtKeys::Remote(keys), ..JwtProvider::default() }
}

/// Keys, and who answers for them.
struct Scene {
    keys: Arc<Keys>,
    answers: Rc<RefCell<VecDeque<Result<String, String>>>>,
    asked: Rc<Cell<usize>>,
}

impl Scene {
    /// The last answer is given again and again.
    fn new(answers: &[Result<&str, &str>]) -> Self {
        let keys = Keys::of(&remote());
        keys.is_followed.store(true, Ordering::Relaxed);
        keys.turn().is_asking = true;
        let (answers, asked) = (Rc::new(RefCell::new(owned(answers))), Rc::new(Cell::new(0)));
        let (script, count) = (Rc::clone(&answers), Rc::clone(&asked));
        let ask = async move || {
            sleep(MOMENT).await;
            count.set(count.get() + 1);
            let mut script = script.borrow_mut();
            if script.len() > 1 { script.pop_front() } else { script.front().cloned() }.expect("an answer")
        };
        spawn_local(run(Following(Arc::downgrade(&keys)), Arc::clone(&keys.wake), ask));
        Self { keys, answers, asked }
    }

    fn answer(&self, answers: &[Result<&str, &str>]) {
        *self.answers.borrow_mut() = owned(answers);
    }

    /// What [`Keys::now`] does, without a worker.
    async fn now(&self) -> Option<Arc<KeySet>> {
        if self.keys.good().is_none() {
            self.keys.attempt(self.keys.retry_pause()).await;
        }
        self.keys.good()
    }

    fn text(&self) -> String {
        self.keys.current.load_full().map(|current| current.text.clone()).unwrap_or_default()
    }
}

fn owned(answers: &[Result<&str, &str>]) -> VecDeque<Result<String, String>> {
    answers.iter().map(|answer| answer.map(str::to_owned).map_err(str::to_owned)).collect()
}

/// Lets time pass, with all that happens meanwhile.
async fn pass(time: Duration) {
    sleep(time + MOMENT * 2).await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_new_before_they_are_old_and_nobody_waits() {
    LocalSet::new()
        .run_until(async {
            let (one, two) = (set("one"), set("two"));
            let scene = Scene::new(&[Ok(&one)]);
            assert!(scene.keys.good().is_none());
            let (first, second) = tokio::join!(scene.now(), scene.now());
            assert!(first.is_some() && second.is_some());
            assert_eq!(scene.asked.get(), 1, "one asks for all");
            scene.answer(&[Ok(&two)]);
            pass(CACHE / 2).await;
            assert_eq!((scene.text(), scene.asked.get()), (one, 1));
            pass(CACHE * 2 / 5).await;
            assert_eq!((scene.text(), scene.asked.get()), (two, 2));
            // A set that is the same is not a newer one.
            let known = scene.now().await.expect("keys");
            pass(CACHE).await;
            assert!(scene.asked.get() > 2 && scene.keys.newer(&known).await.is_none());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_stand_for_a_while_and_then_none_do() {
    LocalSet::new()
        .run_until(async {
            let one = set("one");
            let scene = Scene::new(&[Ok(&one), Err("gone")]);
            assert!(scene.now().await.is_some());
            pass(CACHE + KEYS_GRACE / 2).await;
            let asked = scene.asked.get();
            assert!(asked > 2 && scene.keys.good().is_some(), "{asked}");
            pass(KEYS_GRACE / 2).await;
            assert!(scene.keys.good().is_none() && scene.now().await.is_none());
            // Answers that are no set are failures, too.
            scene.answer(&[Ok("{\"keys\":[]}")]);
            pass(KEYS_FAILED_APART_MOST * 2).await;
            assert!(scene.now().await.is_none());
            scene.answer(&[Ok(&one)]);
            pass(KEYS_FAILED_APART_MOST * 2).await;
            assert!(scene.keys.good().is_some());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn who_has_no_keys_is_told_at_once_between_attempts() {
    LocalSet::new()
        .run_until(async {
            let scene = Scene::new(&[Err("gone")]);
            assert!(scene.now().await.is_none());
            let asked = scene.asked.get();
            for _ in 0..100 {
                assert!(scene.now().await.is_none());
            }
            assert_eq!(scene.asked.get(), asked);
            pass(KEYS_APART_LEAST).await;
            assert!(scene.now().await.is_none());
            assert_eq!(scene.asked.get(), asked + 1);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_nobody_knows_is_asked_for_early_but_not_often() {
    LocalSet::new()
        .run_until(async {
            let (one, two) = (set("one"), set("two"));
            let scene = Scene::new(&[Ok(&one), Ok(&two)]);
            let first = scene.now().await.expect("keys");
            // The set is not older than that.
            assert!(scene.keys.newer(&first).await.is_none());
            pass(KEYS_EARLY_APART).await;
            let newer = scene.keys.newer(&first).await;
            assert_eq!((newer.is_some(), scene.text()), (true, two));
            let second = newer.expect("keys");
            for _ in 0..100 {
                assert!(scene.keys.newer(&second).await.is_none());
            }
            assert_eq!(scene.asked.get(), 2);
            // Who still has the old set gets the new one without a wait.
            assert!(scene.keys.newer(&first).await.is_some());
            assert_eq!(scene.asked.get(), 2);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_nobody_wants_are_not_asked_for() {
    LocalSet::new()
        .run_until(async {
            let one = set("one");
            let scene = Scene::new(&[Ok(&one)]);
            assert!(scene.now().await.is_some());
            let (asked, keys) = (Rc::clone(&scene.asked), Arc::downgrade(&scene.keys));
            drop(scene);
            assert!(keys.upgrade().is_none());
            pass(CACHE * 10).await;
            assert_eq!(asked.get(), 1);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_within_a_bound() {
    LocalSet::new()
        .run_until(async {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("keys.json");
            std::fs::write(&path, set("one")).expect("written");
            let path = path.to_str().expect("text");
            assert_eq!(read(path).await, Ok(set("one")));
            std::fs::write(path, "x".repeat(CALL_BYTES + 1)).expect("written");
            assert!(read(path).await.is_err());
            assert!(read("/nowhere").await.is_err());
        })
        .await;
}
