class ToolError(Exception):
    """End the tool with status 1, or 3 where it was to look, a message, and a word on what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
