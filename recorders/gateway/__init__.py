"""The decision gateway: may this action be taken? Asked by an app, answered by a policy and by experience.

From the entry down: `gateway` (the recorder: fails closed, records before it answers), `request` (what is
asked), `policy` with `yaml_text`, `policy_check` and `conditions` (what is allowed), `features`, `risk` and
`evaluate` (pure: from policy, request and similarity to a verdict), `decision` (all of it together, which
replay calls as well), `redaction`, `record` (what is answered), `digests`, `ulid`, `schemas`, `errors`.
"""
