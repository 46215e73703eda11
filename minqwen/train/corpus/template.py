"""The chat template, in the language that checkpoints carry theirs in (Jinja)."""

TEMPLATE = r"""{#- Turns, pictures, and thinking on (enable_thinking=true) or off. -#}
{%- macro write(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for item in content -%}
      {%- if item.type == 'image' or 'image' in item -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif item.type == 'video' or 'video' in item -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- elif 'text' in item -%}
        {{- item.text -}}
      {%- else -%}
        {{- raise_exception('A content item needs a text, an image or a video.') -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}

{%- if tools -%}
  {{- raise_exception('This model was never shown tools.') -}}
{%- endif -%}
{%- set seen = namespace(user=-1) -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}
    {%- set seen.user = loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- if seen.user < 0 -%}
  {{- raise_exception('There is no user message to answer.') -}}
{%- endif -%}

{%- for message in messages -%}
  {%- if message.role == 'system' and not loop.first -%}
    {{- raise_exception('A system message can only come first.') -}}
  {%- elif message.role not in ['system', 'user', 'assistant'] -%}
    {{- raise_exception('Unknown role: ' ~ message.role) -}}
  {%- endif -%}
  {{- '<|im_start|>' ~ message.role ~ '\n' -}}
  {%- set text = write(message.content) -%}
  {%- if message.role == 'assistant' -%}
    {%- set reasoning = message.reasoning_content or '' -%}
    {%- if not reasoning and '</think>' in text -%}
      {%- set reasoning = text.split('</think>')[0].split('<think>')[-1] -%}
      {%- set text = text.split('</think>')[-1].lstrip('\n') -%}
    {%- endif -%}
    {#- Earlier reasoning is dropped: only the newest is worth its tokens. -#}
    {%- if loop.index0 > seen.user -%}
      {{- '<think>\n' ~ reasoning.strip('\n') ~ '\n</think>\n\n' -}}
    {%- endif -%}
  {%- endif -%}
  {{- text ~ '<|im_end|>\n' -}}
{%- endfor -%}

{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n<think>\n' -}}
  {%- if not enable_thinking -%}
    {{- '\n</think>\n\n' -}}
  {%- endif -%}
{%- endif -%}
"""
