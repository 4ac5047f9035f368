"""The paper's mathematics: pure functions of arrays, knowing nothing of networks, data or configs."""
