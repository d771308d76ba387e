use std::os::unix::fs::PermissionsExt;

use super::*;

/// A node's directory with a script in it.
struct Place {
    dir: tempfile::TempDir,
    command: OnRoleChange,
}

impl Place {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let command = OnRoleChange {
            command: vec![path.to_str().unwrap().to_owned(), "one word".to_owned()],
            timeout: Duration::from_secs(20),
        };
        Self { dir, command }
    }

    fn start(&self) -> Hook {
        let dir = NodeDir::new(self.dir.path());
        Hook::start(&dir, "pangyo-b".to_owned(), self.command.clone()).unwrap()
    }
}

fn became(role: Role) -> RoleNow {
    RoleNow {
        role,
        epoch: None,
        certificate: Some("/promotions/cert.json".into()),
    }
}

fn ended(hook: &Hook, new: &str) -> HookRun {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let last = hook.last().filter(|run| run.new_role == new);
        match last.filter(|run| run.end != HookEnd::Running) {
            Some(run) => return run,
            None => assert!(Instant::now() < deadline, "{:?}", hook.last()),
        }
        std::thread::yield_now();
    }
}

#[test]
fn it_is_told_what_changed_by_arguments_and_by_its_environment() {
    let place = Place::new("printf '<%s>' \"$@\"; echo; echo $OUTLAST_NEW_ROLE >&2; exit 3");
    let hook = place.start();
    hook.tell(became(Role::Standby));
    let run = ended(&hook, "standby");
    let told = "<one word><starting><standby><><pangyo-b></promotions/cert.json>\nstandby\n";
    assert_eq!(
        (run.end.clone(), &run.output[..]),
        (HookEnd::Exited(3), told)
    );
    let warning = run.warning().unwrap();
    assert!(warning.contains("ended with 3"), "{warning}");
    // The same role again is no change.
    hook.tell(became(Role::Standby));
    hook.tell(became(Role::Primary));
    let run = ended(&hook, "primary");
    assert_eq!(run.old_role, "standby");
}

#[test]
fn one_that_does_not_end_is_killed_with_all_that_it_started() {
    let mut place = Place::new("echo begun; sleep 1000 & sleep 1000");
    place.command.timeout = Duration::from_millis(300);
    let hook = place.start();
    hook.tell(became(Role::Primary));
    let run = ended(&hook, "primary");
    assert_eq!((run.end, &run.output[..]), (HookEnd::TimedOut, "begun\n"));
}

#[test]
fn one_that_leaves_somebody_behind_has_ended() {
    let place = Place::new("sleep 30 & echo $!; exit 0");
    let hook = place.start();
    hook.tell(became(Role::Primary));
    let run = ended(&hook, "primary");
    assert_eq!(run.end, HookEnd::Exited(0));
    assert_eq!(run.warning(), None);
    let left = run.output.trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn only_the_end_of_what_it_says_is_kept() {
    let place = Place::new("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
    let hook = place.start();
    hook.tell(became(Role::Primary));
    let output = ended(&hook, "primary").output;
    assert!(
        output.len() <= OUTPUT_BYTES_MAX && output.ends_with("line 2999\n"),
        "{output}"
    );
}

#[test]
fn what_passed_while_it_ran_is_not_told() {
    let place = Place::new(
        "echo $OUTLAST_OLD_ROLE $OUTLAST_NEW_ROLE >> $OUTLAST_DIR/told
         while [ ! -e $OUTLAST_DIR/go ]; do sleep 0.01; done",
    );
    let hook = place.start();
    hook.tell(became(Role::Standby));
    let told = place.dir.path().join("told");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read(&told).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    hook.tell(became(Role::Primary));
    hook.tell(became(Role::Fenced { term: 3 }));
    std::fs::write(place.dir.path().join("go"), "").unwrap();
    ended(&hook, "fenced");
    let told = std::fs::read_to_string(&told).unwrap();
    assert_eq!(told, "starting standby\nstandby fenced\n");
}

#[test]
fn one_that_is_not_there_is_told_as_such() {
    let mut place = Place::new("");
    place.command.command = vec!["/nowhere/to/be/found".to_owned()];
    let hook = place.start();
    hook.tell(became(Role::Primary));
    let run = ended(&hook, "primary");
    assert!(matches!(run.end, HookEnd::NotRun(_)), "{run:?}");
    assert!(run.warning().unwrap().contains("could not be run"));
}
