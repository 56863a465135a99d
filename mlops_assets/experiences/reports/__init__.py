"""Reports that users' test runners write: JUnit XML, Playwright JSON, Allure, CTRF; one module a format."""
