"""Tell people what is wrong: incidents, each once, kept until they end, delivered by channels that may fail and try again."""
