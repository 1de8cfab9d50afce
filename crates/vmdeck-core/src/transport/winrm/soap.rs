//! The messages of remote shells (MS-WSMV) as text: what is asked, and what an answer says.
//!
//! How a message travels is `connection`'s matter.

use super::error::WinrmError;
use base64::{Engine, prelude::BASE64_STANDARD};
use quick_xml::escape::escape;
use roxmltree::{Document, Node};
use std::time::Duration;
use vmdeck_model::text::one_line;

/// The most bytes of one answer that we ask for. Windows allows 500 KiB by itself; more makes output faster than its usual
/// 150 KiB.
pub(super) const ENVELOPE: usize = 512_000;
/// Most characters of a fault's own words.
const WORDS: usize = 300;
/// What a message has besides its data, at most, in bytes.
pub(super) const OVERHEAD: usize = 4096;

const SHELL: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell";
const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
const MANAGEMENT: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
const ENVELOPE_SPACE: &str = "http://www.w3.org/2003/05/soap-envelope";

/// A message to the service.
#[derive(Clone, Debug)]
pub(super) enum ShellMessage<'a> {
    /// Makes a shell.
    Create,
    /// Ends a shell and everything in it.
    Delete,
    /// Starts a command line in a shell, without `cmd.exe`.
    Command(&'a str),
    /// Waits for output of a command.
    Receive(&'a str),
    /// Gives a command a piece of its standard input.
    Send {
        command: &'a str,
        data: &'a [u8],
        /// Whether the input ends with it.
        is_last: bool,
    },
    /// Ends a command, or acknowledges that it has ended.
    Terminate(&'a str),
}

impl ShellMessage<'_> {
    /// Returns the name of the message, for a person.
    pub(super) fn name(&self) -> &'static str {
        match self {
            ShellMessage::Create => "Create",
            ShellMessage::Delete => "Delete",
            ShellMessage::Command(_) => "Command",
            ShellMessage::Receive(_) => "Receive",
            ShellMessage::Send { .. } => "Send",
            ShellMessage::Terminate(_) => "Signal",
        }
    }

    /// Returns the text of the message, for this service and shell.
    pub(super) fn text(&self, url: &str, shell: Option<&str>, id: &str, timeout: Duration) -> String {
        let base = if matches!(self, ShellMessage::Create | ShellMessage::Delete) { TRANSFER } else { SHELL };
        let name = self.name();
        let selector = shell.map_or_else(String::new, |shell| {
            format!("<w:SelectorSet><w:Selector Name=\"ShellId\">{}</w:Selector></w:SelectorSet>", escape(shell))
        });
        format!(
            "<s:Envelope xmlns:s=\"{ENVELOPE_SPACE}\" xmlns:a=\"{ADDRESSING}\" xmlns:w=\"{MANAGEMENT}\" xmlns:rsp=\"{SHELL}\">\
             <s:Header><a:To>{}</a:To><a:ReplyTo><a:Address s:mustUnderstand=\"true\">{ADDRESSING}/role/anonymous</a:Address>\
             </a:ReplyTo><a:Action s:mustUnderstand=\"true\">{base}/{name}</a:Action><a:MessageID>uuid:{id}</a:MessageID>\
             <w:MaxEnvelopeSize s:mustUnderstand=\"true\">{ENVELOPE}</w:MaxEnvelopeSize>\
             <w:Locale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/><w:OperationTimeout>PT{:.3}S</w:OperationTimeout>\
             <w:ResourceURI s:mustUnderstand=\"true\">{SHELL}/cmd</w:ResourceURI>{selector}{}</s:Header>\
             <s:Body>{}</s:Body></s:Envelope>",
            escape(url),
            timeout.as_secs_f64(),
            self.options(),
            self.body()
        )
    }

    fn options(&self) -> &'static str {
        match self {
            // 65001 is UTF-8.
            ShellMessage::Create => {
                "<w:OptionSet><w:Option Name=\"WINRS_NOPROFILE\">FALSE</w:Option>\
                 <w:Option Name=\"WINRS_CODEPAGE\">65001</w:Option></w:OptionSet>"
            }
            // A pipe has an end, which a console has not.
            ShellMessage::Command(_) => {
                "<w:OptionSet><w:Option Name=\"WINRS_CONSOLEMODE_STDIN\">FALSE</w:Option>\
                 <w:Option Name=\"WINRS_SKIP_CMD_SHELL\">TRUE</w:Option></w:OptionSet>"
            }
            _ => "",
        }
    }

    fn body(&self) -> String {
        match self {
            ShellMessage::Create => "<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams>\
                                <rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>"
                .to_owned(),
            ShellMessage::Delete => String::new(),
            ShellMessage::Command(line) => {
                format!("<rsp:CommandLine><rsp:Command>{}</rsp:Command></rsp:CommandLine>", escape(*line))
            }
            ShellMessage::Receive(command) => format!(
                "<rsp:Receive><rsp:DesiredStream CommandId=\"{}\">stdout stderr</rsp:DesiredStream></rsp:Receive>",
                escape(*command)
            ),
            ShellMessage::Send { command, data, is_last } => {
                let end = if *is_last { " End=\"true\"" } else { "" };
                let (command, data) = (escape(*command), BASE64_STANDARD.encode(data));
                format!(
                    "<rsp:Send><rsp:Stream Name=\"stdin\" CommandId=\"{command}\"{end}>{data}</rsp:Stream></rsp:Send>"
                )
            }
            ShellMessage::Terminate(command) => format!(
                "<rsp:Signal CommandId=\"{}\"><rsp:Code>{SHELL}/signal/terminate</rsp:Code></rsp:Signal>",
                escape(*command)
            ),
        }
    }
}

/// A piece of a command's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OutputPiece {
    /// The pieces in their order, each with whether it is of standard error.
    pub(super) output: Vec<(bool, Vec<u8>)>,
    /// The status of the command, once it has ended.
    pub(super) end: Option<i32>,
}

/// Returns the id of the shell that was made.
pub(super) fn shell_id(answer: &str) -> Result<String, WinrmError> {
    id(answer, "ShellId")
}

/// Returns the id of the command that was started.
pub(super) fn command_id(answer: &str) -> Result<String, WinrmError> {
    id(answer, "CommandId")
}

fn id(answer: &str, name: &str) -> Result<String, WinrmError> {
    let document = read(answer)?;
    let text = named(&document, name).find_map(|node| node.text()).map(str::trim).unwrap_or_default();
    // It goes into every further message.
    if text.is_empty() || text.len() > 128 {
        return Err(WinrmError::Nonsense(format!("there is no {name}")));
    }
    Ok(text.to_owned())
}

/// Reads the answer to a `Receive`.
pub(super) fn piece(answer: &str) -> Result<OutputPiece, WinrmError> {
    let document = read(answer)?;
    let mut piece = OutputPiece::default();
    for stream in named(&document, "Stream") {
        let data: String = stream.text().unwrap_or_default().split_ascii_whitespace().collect();
        let data = BASE64_STANDARD.decode(data).map_err(|e| WinrmError::Nonsense(format!("its output: {e}")))?;
        if !data.is_empty() {
            piece.output.push((stream.attribute("Name") == Some("stderr"), data));
        }
    }
    let state = named(&document, "CommandState").next();
    let state = state.ok_or_else(|| WinrmError::Nonsense("there is no CommandState".into()))?;
    if state.attribute("State").is_some_and(|word| word.ends_with("/Done")) {
        // Windows writes it as a signed or an unsigned number of 32 bits.
        let code = named(&document, "ExitCode").find_map(|node| node.text()?.trim().parse::<i64>().ok());
        let code =
            code.and_then(|code| i32::try_from(code).ok().or_else(|| u32::try_from(code).ok().map(u32::cast_signed)));
        piece.end = Some(code.ok_or_else(|| WinrmError::Nonsense("the command has ended without a status".into()))?);
    }
    Ok(piece)
}

/// Returns whether an answer tells of a fault, whatever its HTTP status is. What commands write is in base64, and cannot look like it.
pub(super) fn is_fault(answer: &str) -> bool {
    answer.contains(":Fault>") || answer.contains("<Fault>")
}

/// Returns the fault that an answer tells of.
pub(super) fn fault(answer: &str) -> WinrmError {
    let document = match read(answer) {
        Ok(document) => document,
        Err(error) => return error,
    };
    let code = named(&document, "WSManFault").find_map(|node| node.attribute("Code")?.parse().ok());
    let words = |name: &str| {
        let text: String =
            named(&document, name).next()?.descendants().filter_map(|node| node.text()).take(1).collect();
        Some(text).filter(|text| !text.trim().is_empty())
    };
    let text = words("Message").or_else(|| words("Text")).unwrap_or_else(|| "no reason is given".into());
    // Its lines are broken anywhere.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = one_line(&text).chars().take(WORDS).collect();
    WinrmError::Service { code: code.unwrap_or(0), text }
}

fn read(answer: &str) -> Result<Document<'_>, WinrmError> {
    Document::parse(answer).map_err(|e| WinrmError::Nonsense(e.to_string()))
}

fn named<'a, 'b>(document: &'a Document<'b>, name: &'a str) -> impl Iterator<Item = Node<'a, 'b>> {
    document.descendants().filter(move |node| node.tag_name().name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn received(inner: &str) -> String {
        format!(
            "<s:Envelope xmlns:s=\"{ENVELOPE_SPACE}\" xmlns:r=\"{SHELL}\"><s:Body><r:ReceiveResponse>{inner}</r:ReceiveResponse></s:Body></s:Envelope>"
        )
    }

    #[test]
    fn pieces_come_in_their_order_and_the_status_is_exact() {
        let out = "<r:Stream Name=\"stdout\" CommandId=\"1\">aGk=</r:Stream>\
                   <r:Stream Name=\"stderr\" CommandId=\"1\">\n bG\n g=</r:Stream>\
                   <r:Stream Name=\"stdout\" CommandId=\"1\" End=\"true\"></r:Stream>";
        let running = format!("{out}<r:CommandState CommandId=\"1\" State=\"{SHELL}/CommandState/Running\"/>");
        let piece = piece(&received(&running)).expect("a piece");
        assert_eq!(piece.output, [(false, b"hi".to_vec()), (true, b"lh".to_vec())]);
        assert_eq!(piece.end, None);
        for (code, wanted) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("4294967295", Some(-1)),
            ("3221225786", Some(-1_073_741_510)),
            ("99999999999", None),
            ("", None),
            ("zero", None),
        ] {
            let done = format!(
                "<r:CommandState CommandId=\"1\" State=\"{SHELL}/CommandState/Done\"><r:ExitCode>{code}</r:ExitCode></r:CommandState>"
            );
            assert_eq!(super::piece(&received(&done)).ok().map(|piece| piece.end), wanted.map(Some), "{code}");
        }
        assert!(super::piece(&received("")).is_err(), "an answer without a state says nothing");
    }

    #[test]
    fn nothing_in_a_message_becomes_markup() {
        let line = "a <b> & \"c\" ' ]]>";
        let text = ShellMessage::Command(line).text("http://h/wsman?a&b", Some("<id>"), "1", Duration::from_secs(20));
        let document = Document::parse(&text).expect("well formed");
        assert_eq!(named(&document, "Command").next().and_then(|node| node.text()), Some(line));
        assert_eq!(named(&document, "Selector").next().and_then(|node| node.text()), Some("<id>"));
        assert_eq!(named(&document, "OperationTimeout").next().and_then(|node| node.text()), Some("PT20.000S"));
    }

    #[test]
    fn a_fault_keeps_its_code_and_its_words() {
        let text = "<s:Envelope xmlns:s=\"x\"><s:Body><s:Fault><s:Reason><s:Text>short</s:Text></s:Reason><s:Detail>\
                    <f:WSManFault xmlns:f=\"y\" Code=\"5\"><f:Message>Access is\n denied. </f:Message></f:WSManFault></s:Detail></s:Fault></s:Body></s:Envelope>";
        assert!(matches!(fault(text), WinrmError::Service { code: 5, text } if text == "Access is denied."));
        assert!(matches!(fault("no xml"), WinrmError::Nonsense(_)));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"cc\">]><a>&b;</a>";
        assert!(matches!(fault(bomb), WinrmError::Nonsense(_)), "no document brings its own entities");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in ".{0,200}") {
            let _ = (piece(&text), shell_id(&text), fault(&text));
            let _ = piece(&received(&text));
        }
    }
}
