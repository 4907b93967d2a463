"""Where history is read: sources become ordered events, label rows become training sets."""
