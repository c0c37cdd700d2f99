#!/usr/bin/env python3
"""The protocol's own Python client, unchanged, against the daemon: what it parses, what it raises."""
import common


def models(tally, client, name):
    tally.check([m.id for m in client.models.list()] == [name], "models.list")
    tally.check(client.models.retrieve(name + "@base").id == name + "@base", "models.retrieve")


def completions(tally, client, name):
    ask = {"model": name, "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**ask, logprobs=2, echo=True)
    choice = whole.choices[0]
    tally.check(choice.text.startswith("The capital of France is Paris"), f"a completion: {choice.text!r}")
    p = choice.logprobs
    tally.check(len(p.tokens) == len(p.token_logprobs) == len(p.top_logprobs) == len(p.text_offset) == whole.usage.total_tokens
                and p.token_logprobs[0] is None and "".join(p.tokens) == choice.text, "its log-probabilities")
    parts = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    said = "".join(c.text for part in parts for c in part.choices)
    tally.check("The capital of France is" + said == choice.text, f"streamed in {len(parts)} parts")
    tally.check(parts[-1].usage.completion_tokens == 12 and not parts[-1].choices, "with its usage")
    many = client.completions.create(model=name, prompt=["One, two,", "Red and"], n=2, max_tokens=3, seed=7)
    tally.check([c.index for c in many.choices] == [0, 1, 2, 3], f"several choices: {[c.text for c in many.choices]}")


def chats(tally, client, name):
    ask = {"model": name, "max_tokens": 20, "temperature": 0,
           "messages": [{"role": "user", "content": [{"type": "text", "text": "Name the capital of France."}]}]}
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    answer = whole.choices[0].message
    tally.check(answer.role == "assistant" and "Paris" in answer.content, f"a chat: {answer.content!r}")
    tokens = whole.choices[0].logprobs.content
    tally.check(len(tokens) == whole.usage.completion_tokens and all(len(t.top_logprobs) == 2 for t in tokens),
                "its log-probabilities")
    parts = list(client.chat.completions.create(**ask, stream=True))
    tally.check(parts[0].choices[0].delta.role == "assistant", "the role comes first")
    said = "".join(p.choices[0].delta.content or "" for p in parts)
    tally.check(said == answer.content and parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason,
                f"streamed in {len(parts)} parts")
    with client.chat.completions.stream(**ask) as events:
        final = events.get_final_completion()
    tally.check(final.choices[0].message.content == answer.content, "gathered by the client's own accumulator")


def refusals(tally, client, name):
    import openai
    for what, kind, code, ask in (
            ("an unknown model", openai.NotFoundError, "model_not_found", {"model": "nobody", "prompt": "x"}),
            ("an unknown view", openai.NotFoundError, "model_not_found", {"model": name + "@nowhere", "prompt": "x"}),
            ("too long a prompt", openai.BadRequestError, "context_length_exceeded", {"model": name, "prompt": [5] * 9000}),
            ("a suffix", openai.BadRequestError, "unsupported_parameter", {"model": name, "prompt": "x", "suffix": "y"})):
        try:
            client.completions.create(**ask)
            tally.check(False, what)
        except kind as e:
            tally.check(e.code == code and e.param, f"{what}: {e.status_code} {e.code}: {e.body['message']}")


def main():
    import openai
    args = common.arguments(__doc__).parse_args()
    tally = common.Tally()
    with common.daemon(args) as daemon:
        client = openai.OpenAI(base_url=daemon.url + "/v1", api_key="none is needed", max_retries=0)
        name = daemon.call("GET", "/v1/models")["data"][0]["id"]
        for part in (models, completions, chats, refusals):
            part(tally, client, name)
    tally.finish()


if __name__ == "__main__":
    main()
