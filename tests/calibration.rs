//! Documents, chat templates and chunks, from outside.

use std::path::{Path, PathBuf};

use dq_gpu::calibration::{ChatTemplate, Chunks, Document, Message, built_in, held_out, load};
use dq_gpu::tokenizer::Tokenizer;

fn tokenizer(dir: &str) -> Tokenizer {
    Tokenizer::from_hf(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).unwrap()
}

fn tiny() -> Tokenizer {
    tokenizer("models/tiny-llama")
}

/// Adds BOS (id 1); has a template like Mistral's.
fn spm() -> Tokenizer {
    tokenizer("tests/data/tokenizer/spm")
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(role, content)).collect()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_source(Some(source), "<s>", "</s>").unwrap()
}

const CHATML: &str = "{%- if tools %}\n    {{- 'tools' }}\n{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' and message.content is string and not(message.content.startswith('<tool>')) %}{%- set ns.last = index %}{%- break %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>' + message.role + '\\n' + (content if loop.index0 < ns.last else message.content) }}
        {%- if message.tool_calls %}{{- message.tool_calls | tojson }}{%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

#[test]
fn chatml_in_the_style_of_qwen3() {
    let messages = chat(&[
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "<think>\nhm\n</think>\n\nHello."),
        ("user", "Bye"),
        ("assistant", "<think>x</think>Bye."),
    ]);
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n\
         <|im_start|>assistant\n<think>x</think>Bye.<|im_end|>\n";
    assert_eq!(template(CHATML).render(&messages).unwrap(), expected);
}

const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}";

#[test]
fn llama_3_style() {
    let messages = chat(&[("system", " S "), ("user", "Hi "), ("assistant", "Yo")]);
    assert_eq!(
        template(LLAMA3).render(&messages).unwrap(),
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>"
    );
}

#[test]
fn a_system_message_that_the_template_rejects_goes_before_the_first_user_message() {
    let template = ChatTemplate::new(&spm()).unwrap();
    let messages = chat(&[("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")]);
    assert_eq!(template.render(&messages).unwrap(), "<s>[INST] Be brief.\n\nHi [/INST]Yo</s>[INST] Bye [/INST]");
}

#[test]
fn a_conversation_that_stays_rejected_is_an_error_with_the_template_s_words() {
    let template = ChatTemplate::new(&spm()).unwrap();
    let error = template.render(&chat(&[("user", "a"), ("user", "b")])).unwrap_err().to_string();
    assert!(error.contains("must alternate"), "{error}");
}

#[test]
fn a_model_without_a_template_gets_the_contents() {
    let template = ChatTemplate::from_source(None, "", "").unwrap();
    assert_eq!(
        template.render(&chat(&[("system", "A"), ("user", " B\n"), ("assistant", "C")])).unwrap(),
        "A\n\nB\n\nC"
    );
}

#[test]
fn blocks_are_trimmed_and_json_is_written_as_transformers_does() {
    let source = "{% for m in messages %}\n  {% if true %}\n{{ {'a': [1, 'é<'], 'b': {}} | tojson }}\n  {% endif %}\n{% endfor %}\n{{ [1, {'x': none}] | tojson(indent=2) }}{% generation %}g{% endgeneration %}";
    let text = template(source).render(&chat(&[("user", "")])).unwrap();
    assert_eq!(text, "{\"a\": [1, \"é<\"], \"b\": {}}\n[\n  1,\n  {\n    \"x\": null\n  }\n]g");
}

#[test]
fn dates_do_not_move() {
    let source = "{{ strftime_now('%d %b %Y') }}";
    assert_eq!(template(source).render(&chat(&[("user", "")])).unwrap(), "15 Jan 2026");
}

#[test]
fn a_template_that_does_not_parse_is_refused() {
    let error = ChatTemplate::from_source(Some("{% if %}"), "", "").err().unwrap().to_string();
    assert!(error.contains("does not parse"), "{error}");
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn doc(domain: &str, text: &str, chat: bool) -> Document {
    Document { domain: domain.to_string(), text: text.to_string(), chat }
}

#[test]
fn every_kind_of_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.txt", "plain <|im_end|>");
    write(
        dir.path(),
        "b.jsonl",
        concat!(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"p1"},{"type":"text","text":"p2"}]}]}"#,
            "\n\n",
            r#"{"prompt":"p","response":"r","domain":"d"}"#,
            "\n",
            r#"{"instruction":"i","input":"x","output":"o"}"#,
            "\n",
            r#"{"text":"t","category":"c"}"#,
            "\n",
            r#"{"conversations":[{"from":"system","value":"s"},{"from":"human","value":"h"},{"from":"gpt","value":"g"}]}"#,
            "\n",
            r#"{"text":"  "}"#,
            "\n",
        ),
    );
    write(dir.path(), "c.json", r#"["one", {"text": "two"}]"#);
    write(dir.path(), "ignored.bin", "\u{0}");
    let template = ChatTemplate::new(&tiny()).unwrap();
    let documents = load(&[dir.path().to_path_buf()], &template).unwrap();
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let expected = [
        doc("a", "plain <|im_end|>", false),
        doc("b", &turn("user", "p1\np2"), true),
        doc("d", &(turn("user", "p") + &turn("assistant", "r")), true),
        doc("b", &(turn("user", "i\n\nx") + &turn("assistant", "o")), true),
        doc("c", "t", false),
        doc("b", &(turn("system", "s") + &turn("user", "h") + &turn("assistant", "g")), true),
        doc("c", "one", false),
        doc("c", "two", false),
    ];
    assert_eq!(documents, expected);
}

#[test]
fn bad_files_are_named_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let template = ChatTemplate::new(&tiny()).unwrap();
    let fails = |path: PathBuf| format!("{:#}", load(&[path], &template).unwrap_err());
    let error = fails(write(dir.path(), "bad.jsonl", "{\"text\":\"x\"}\n{oops\n"));
    assert!(error.contains("bad.jsonl") && error.contains("line 2"), "{error}");
    let error = fails(write(dir.path(), "odd.jsonl", "{\"foo\":1}\n"));
    assert!(error.contains("line 1") && error.contains("messages"), "{error}");
    assert!(fails(dir.path().join("none.txt")).contains("none.txt"));
    assert!(fails(write(dir.path(), "empty.txt", " \n")).contains("no calibration text"));
    assert!(load(&[], &template).unwrap_err().to_string().contains("no calibration files"));
    std::fs::write(dir.path().join("latin.txt"), [0xe9, 0x20]).unwrap();
    assert!(fails(dir.path().join("latin.txt")).contains("UTF-8"));
}

/// Text whose tokens are easy to count: every "x" is one token.
fn long(domain: &str, tokenizer: &Tokenizer, tokens: usize) -> Document {
    let text: String = "x\n".repeat(tokens);
    let ids = tokenizer.encode(&text, false, false).unwrap();
    assert!(ids.len() >= tokens);
    doc(domain, &tokenizer.decode(&ids[..tokens]), false)
}

#[test]
fn chunks_alternate_between_domains_and_drop_tails() {
    let tokenizer = tiny();
    let documents = [long("a", &tokenizer, 40), long("b", &tokenizer, 20), long("a", &tokenizer, 10)];
    let chunks = Chunks::cut(&documents, &tokenizer, 16, None).unwrap();
    let names: Vec<&str> = chunks.domain.iter().map(|&d| chunks.domains[d as usize].as_str()).collect();
    assert_eq!(names, ["a", "b", "a", "a"]);
    assert_eq!((chunks.len(), chunks.tokens.len()), (4, 64));
    let two = Chunks::cut(&documents, &tokenizer, 16, Some(2)).unwrap();
    assert_eq!(two.tokens, chunks.tokens[..32]);
    assert_eq!(chunks, Chunks::cut(&documents, &tokenizer, 16, None).unwrap());
    assert_ne!(two.hash, chunks.hash);
    let bytes: Vec<u8> = two.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    assert_eq!(two.hash, blake3::hash(&bytes).to_hex().to_string());
}

#[test]
fn two_texts_take_turns_and_share_domains() {
    let tokenizer = tiny();
    let cut = |parts: &[(&str, usize)], limit| {
        let documents: Vec<_> = parts.iter().map(|(domain, tokens)| long(domain, &tokenizer, *tokens)).collect();
        Chunks::cut(&documents, &tokenizer, 16, limit).unwrap()
    };
    let (own, other) = (cut(&[("law", 80)], None), cut(&[("chat", 40), ("law", 40)], None));
    assert_eq!((own.len(), other.len()), (5, 4));
    let both = own.clone().alternate(other.clone(), None).unwrap();
    assert_eq!(both.domains, ["law", "chat"]);
    assert_eq!(both.domain, [0, 1, 0, 0, 0, 1, 0, 0, 0]);
    let order =
        [(&own, 0), (&other, 0), (&own, 1), (&other, 1), (&own, 2), (&other, 2), (&own, 3), (&other, 3), (&own, 4)];
    for (at, (text, index)) in order.into_iter().enumerate() {
        assert_eq!((both.chunk(at), both.first[at]), (text.chunk(index), text.first[index]));
    }
    let limited = own.clone().alternate(other, Some(3)).unwrap();
    assert_eq!((limited.tokens.as_slice(), limited.len()), (&both.tokens[..48], 3));
    assert_eq!(limited.hash, both.prefix(3).hash);
    assert!(own.alternate(cut(&[("chat", 80)], None).prefix(1), None).is_ok());
}

#[test]
fn domains_too_small_for_a_chunk_are_pooled() {
    let tokenizer = tiny();
    let documents: Vec<_> = ["a", "b", "c"].iter().map(|d| long(d, &tokenizer, 10)).collect();
    let chunks = Chunks::cut(&documents, &tokenizer, 16, None).unwrap();
    assert_eq!((chunks.len(), chunks.domains.as_slice()), (1, &["mixed".to_string()][..]));
}

#[test]
fn too_little_text_is_one_clear_error() {
    let tokenizer = tiny();
    let error = Chunks::cut(&[long("a", &tokenizer, 10)], &tokenizer, 512, None).unwrap_err().to_string();
    assert!(error.contains("10 tokens") && error.contains("512"), "{error}");
    assert!(Chunks::cut(&[], &tokenizer, 512, None).is_err());
}

#[test]
fn bos_starts_every_document_and_chunk_once() {
    let tokenizer = spm();
    let template = ChatTemplate::new(&tokenizer).unwrap();
    let text = template.render(&chat(&[("user", "Hi there"), ("assistant", "Hello")])).unwrap();
    let documents = vec![doc("a", &text, true); 8];
    let one = tokenizer.encode(&text, false, true).unwrap();
    assert_eq!((one[0], one.iter().filter(|&&t| t == 1).count()), (1, 1));
    let chunks = Chunks::cut(&documents, &tokenizer, one.len() * 2 + 1, None).unwrap();
    assert_eq!(chunks.chunk(0)[..one.len()], one, "BOS is not doubled");
    assert_eq!(chunks.chunk(0)[one.len()], 1, "the next document starts with BOS");
    // The second chunk starts inside a document: BOS takes the place of its first token.
    assert_eq!((chunks.chunk(1)[0], chunks.first[1]), (1, one[1]));
    let original: Vec<u32> = documents.iter().flat_map(|_| one.clone()).take(chunks.tokens.len()).collect();
    assert_eq!(chunks.original_tokens(), original);
    // Plain text gets BOS too.
    let plain = Chunks::cut(&[long("a", &tokenizer, 40)], &tokenizer, 16, None).unwrap();
    assert_eq!((plain.chunk(0)[0], plain.first[0]), (1, 1));
}

#[test]
fn a_text_stream_is_cut_as_llama_perplexity_cuts_it() {
    let tokenizer = spm();
    let text = "The lighthouse keeper waited.\n".repeat(20);
    let ids = tokenizer.encode(text.strip_suffix('\n').unwrap(), true, false).unwrap();
    let chunks = Chunks::from_text_stream(&text, "wiki", &tokenizer, 16, None).unwrap();
    assert_eq!(chunks.len(), ids.len() / 16);
    assert_eq!(chunks.original_tokens(), ids[..chunks.len() * 16]);
    assert!((0..chunks.len()).all(|i| chunks.chunk(i)[0] == 1));
    assert_eq!(chunks.chunk(1)[1..], ids[17..32]);
    let error = Chunks::from_text_stream("short", "wiki", &tokenizer, 16, None).unwrap_err().to_string();
    assert!(error.contains("two chunks"), "{error}");
}

/// `perplexity.json`: a text, and the tokens that llama-perplexity stored in its logits file for it (context 128).
#[test]
fn a_text_stream_has_the_tokens_of_llama_perplexity() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer/perplexity.json");
    let theirs: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(theirs["tokens"].clone()).unwrap();
    let chunks = Chunks::from_text_stream(theirs["text"].as_str().unwrap(), "text", &tiny(), 128, None).unwrap();
    assert_eq!(chunks.original_tokens(), tokens);
}

#[test]
fn the_built_in_sets_render_and_fill_chunks_of_every_domain() {
    for tokenizer in [tiny(), spm()] {
        let template = ChatTemplate::new(&tokenizer).unwrap();
        for set in [built_in(&template).unwrap(), held_out(&template).unwrap()] {
            let chunks = Chunks::cut(&set, &tokenizer, 512, Some(12)).unwrap();
            assert_eq!((chunks.len(), chunks.domains.len()), (12, 6));
            let vocabulary = tokenizer.vocab_size() as u32;
            assert!(chunks.tokens.iter().all(|&token| token < vocabulary));
            for domain in 0..6 {
                assert_eq!(chunks.domain.iter().filter(|&&d| d == domain).count(), 2);
            }
        }
    }
}
