"""How well a model follows prompts: a fixed prompt table, rendered, checked and scored."""
