//! `cmd.*`: commands of the host, each in a process group of its own.
//!
//! **Invariants.** When a call ends, by itself, by its timeout or because it is dropped, nothing of its process group is
//! left running. The command's exit code is the return's retcode; one that was killed by a signal has the signal's
//! number, negative, as in Salt.

use super::output::Output;
use super::{Args, ArgumentError, Body, Context, Failure, Function, Outcomes, Parameter, Returned};
use crate::remains::JOB_VARIABLE;
use futures::FutureExt;
use rustix::process::{Pid, Signal, kill_process_group};
use saltern_wire::Value;
use serde_json::json;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{ChildStdin, Command};

const PARAMETERS: &[Parameter] = &[
    Parameter::Required("cmd"),
    Parameter::Optional("cwd", "None"),
    Parameter::Optional("stdin", "None"),
    Parameter::Optional("shell", "'/bin/sh'"),
    Parameter::Optional("env", "None"),
    Parameter::Optional("clean_env", "False"),
    Parameter::Optional("timeout", "None"),
    Parameter::Optional("ignore_retcode", "False"),
    Parameter::Optional("python_shell", "True"),
];

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "cmd.run",
        doc: "Runs a command in a shell and returns what it wrote, errors included. timeout= is in seconds and ends the \
              command with everything it started; env= is a mapping; cmd may be a list when shell=False.",
        parameters: PARAMETERS,
        pure: false,
        body: Body::Later(|context, args| run(context, args).boxed()),
    },
    Function {
        name: "cmd.run_all",
        doc: "Runs a command as cmd.run does and returns pid, retcode, stdout and stderr.",
        parameters: PARAMETERS,
        pure: false,
        body: Body::Later(|context, args| run_all(context, args).boxed()),
    },
];

/// How long a command may take to obey SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// What to run and how.
struct Plan {
    program: Vec<String>,
    cwd: Option<String>,
    stdin: Option<String>,
    env: Vec<(String, String)>,
    clean_env: bool,
    timeout: Option<Duration>,
    ignore_retcode: bool,
}

impl Plan {
    fn read(args: &Args) -> Result<Self, ArgumentError> {
        Ok(Self {
            program: program(args)?,
            cwd: args.text("cwd")?,
            stdin: args.text("stdin")?,
            env: args.texts_by_name("env")?,
            clean_env: args.flag("clean_env", false)?,
            timeout: args.seconds("timeout")?,
            ignore_retcode: args.flag("ignore_retcode", false)?,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).process_group(0).kill_on_drop(true);
        if self.clean_env {
            command.env_clear();
            // By this name the agent finds what runs on after the supervisor was killed.
            command.envs(std::env::var_os(JOB_VARIABLE).map(|jid| (JOB_VARIABLE, jid)));
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.cwd {
            command.current_dir(folder);
        }
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command
    }

    fn retcode(&self, status: std::process::ExitStatus) -> i32 {
        status.code().or(status.signal().map(|signal| -signal)).unwrap_or(1)
    }

    fn failed_to_start(&self, error: &std::io::Error) -> Failure {
        let place = self.cwd.as_ref().map(|folder| format!(" in {folder}")).unwrap_or_default();
        Failure::Failed(format!("Unable to run {:?}{place}: {error}", self.program.join(" ")))
    }
}

/// The words to execute: a shell with the text, or the words themselves.
fn program(args: &Args) -> Result<Vec<String>, ArgumentError> {
    let words = match args.get("cmd") {
        Some(Value::Array(words)) => {
            let word = |word: &Value| word.as_str().map_or_else(|| word.to_string(), str::to_owned);
            Some(words.iter().map(word).collect::<Vec<String>>())
        }
        _ => None,
    };
    let shell = match args.get("shell") {
        Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) | None => Some("/bin/sh".to_owned()),
        Some(_) => args.text("shell")?,
    };
    let program = match (words, shell) {
        // A list is run as it is: no shell sees it.
        (Some(words), _) => words,
        (None, Some(shell)) => vec![shell, "-c".into(), args.required_text("cmd")?],
        (None, None) => args.required_text("cmd")?.split_whitespace().map(str::to_owned).collect(),
    };
    if program.first().is_none_or(String::is_empty) {
        return Err(ArgumentError("cmd is empty".into()));
    }
    if program.iter().any(|word| word.contains('\0')) {
        return Err(ArgumentError("cmd holds a zero byte".into()));
    }
    Ok(program)
}

/// Ends the process group when it is dropped, however the call ends.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // The group may be gone already, which is what is wanted.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// How a command ended.
struct Ended {
    pid: u32,
    retcode: i32,
    timed_out: Option<Duration>,
    outputs: Vec<String>,
}

/// Runs the plan with the pipes that `readers` read.
async fn execute(
    plan: &Plan,
    mut command: Command,
    readers: Vec<pipe::Receiver>,
    output_bytes_max: usize,
) -> Result<Ended, Failure> {
    let mut child = command.spawn().map_err(|error| plan.failed_to_start(&error))?;
    // The writing ends of the pipes live in the command: while one is open here, no reader sees the end.
    drop(command);
    let pid = child.id().unwrap_or(0);
    let group = Group(i32::try_from(pid).ok().and_then(Pid::from_raw));
    let mut outputs: Vec<Output> = readers.iter().map(|_| Output::new(output_bytes_max)).collect();
    let stdin = child.stdin.take();
    let mut timed_out = None;
    let status = {
        let reading = futures::future::join_all(
            readers.into_iter().zip(outputs.iter_mut()).map(|(reader, output)| drain(reader, output)),
        );
        let work = async {
            let (status, _, ()) = tokio::join!(child.wait(), reading, write(stdin, plan.stdin.as_deref()));
            status
        };
        tokio::pin!(work);
        match plan.timeout {
            None => work.await,
            Some(limit) => match tokio::time::timeout(limit, &mut work).await {
                Ok(status) => status,
                Err(_) => {
                    timed_out = Some(limit);
                    group.signal(Signal::TERM);
                    let obeyed = tokio::time::timeout(GRACE, &mut work).await;
                    group.signal(Signal::KILL);
                    match obeyed {
                        Ok(status) => status,
                        // A process that left the group may hold a pipe: what it writes is not waited for.
                        Err(_) => match tokio::time::timeout(GRACE, &mut work).await {
                            Ok(status) => status,
                            Err(_) => Ok(std::process::ExitStatus::from_raw(Signal::KILL.as_raw())),
                        },
                    }
                }
            },
        }
    };
    let status = status.map_err(|error| Failure::Failed(format!("waiting for pid {pid} failed: {error}")))?;
    let outputs = outputs.into_iter().map(Output::into_text).collect();
    Ok(Ended { pid, retcode: plan.retcode(status), timed_out, outputs })
}

/// Reads to the end. An error of the pipe is its end.
async fn drain(mut reader: impl AsyncRead + Unpin, output: &mut Output) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(len) => output.feed(&buffer[..len]),
        }
    }
}

/// Feeds the command's standard input and closes it. A command that does not want it all is no error.
async fn write(stdin: Option<ChildStdin>, text: Option<&str>) {
    if let (Some(mut stdin), Some(text)) = (stdin, text) {
        let _ = stdin.write_all(text.as_bytes()).await;
    }
}

/// A pipe: its reading end for us, its writing end for the command.
fn open_pipe() -> Result<(pipe::Receiver, std::io::PipeWriter), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("no pipe for the command: {error}"));
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    Ok((pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?, writer))
}

fn timeout_note(limit: Duration) -> String {
    format!("Timed out after {} seconds; the command and everything it started was ended.", limit.as_secs_f64())
}

async fn run(context: Context, args: Args) -> Outcomes {
    let plan = Plan::read(&args)?;
    let (reader, writer) = open_pipe()?;
    let mut command = plan.command();
    let both = writer.try_clone().map_err(|error| Failure::Failed(format!("no pipe for the command: {error}")))?;
    command.stdout(writer).stderr(both);
    let ended = execute(&plan, command, vec![reader], context.output_bytes_max).await?;
    let mut text = ended.outputs.into_iter().next().unwrap_or_default();
    if let Some(limit) = ended.timed_out {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&timeout_note(limit));
        return Ok(Returned { value: Value::String(text), retcode: 1 });
    }
    let retcode = if plan.ignore_retcode { 0 } else { ended.retcode };
    Ok(Returned { value: Value::String(text), retcode })
}

async fn run_all(context: Context, args: Args) -> Outcomes {
    let plan = Plan::read(&args)?;
    let (out, out_writer) = open_pipe()?;
    let (err, err_writer) = open_pipe()?;
    let mut command = plan.command();
    command.stdout(out_writer).stderr(err_writer);
    let ended = execute(&plan, command, vec![out, err], context.output_bytes_max).await?;
    let mut outputs = ended.outputs.into_iter();
    let (stdout, mut stderr) = (outputs.next().unwrap_or_default(), outputs.next().unwrap_or_default());
    let mut retcode = ended.retcode;
    if let Some(limit) = ended.timed_out {
        if !stderr.is_empty() {
            stderr.push('\n');
        }
        stderr.push_str(&timeout_note(limit));
        retcode = 1;
    }
    let value = json!({"pid": ended.pid, "retcode": retcode, "stdout": stdout, "stderr": stderr});
    let retcode = if plan.ignore_retcode && ended.timed_out.is_none() { 0 } else { retcode };
    Ok(Returned { value, retcode })
}
